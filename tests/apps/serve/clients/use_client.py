"""Uses the client that openapi-python-client generated from a server; prints the types of its results."""

import base64
import sys
from io import BytesIO
from pathlib import Path

from blip_client import Client
from blip_client import models as m
from blip_client.api.default import answer, caption, embed, explain, healthz, index, match, models, openapi, readyz
from blip_client.types import File

url, photo = sys.argv[1], Path(sys.argv[2]).read_bytes()
TEXT, BAD = base64.encodebytes(photo).decode(), base64.b64encode(b"not an image").decode()


def file() -> File:
    return File(payload=BytesIO(photo))  # without a name


def show(result: object) -> None:
    items = result if isinstance(result, list) else [result]
    print(type(result).__name__, *(type(item).__name__ for item in items))


with Client(base_url=url, timeout=180) as client:
    single = caption.sync(client=client, body=m.CaptionBody(image=TEXT, beams=2))
    assert isinstance(single, m.CaptionRecord) and single.text and single.schema == "caption/1"
    show(single)
    show(caption.sync(client=client, body=m.CaptionBody(images=[TEXT, BAD], beams=1, num_captions=1)))
    form = caption.sync(client=client, body=m.CaptionBodyForm(image=file(), beams=2, sample=False))
    assert isinstance(form, m.CaptionRecord) and form.text == single.text
    show(caption.sync(client=client, body=m.CaptionBodyForm(images=[file(), file()], beams=1)))
    show(answer.sync(client=client, body=m.AnswerBody(image=TEXT, question="what?")))
    question = m.AnswerBodyForm(image=file(), questions=["what?", "who?"], answers=["yes", "no"], top=2)
    answers = answer.sync(client=client, body=question)
    assert {answers[0].text, answers[0].alternatives[0].text} == {"yes", "no"}
    show(answers)
    show(match.sync(client=client, body=m.MatchBody(image=TEXT, text="a cat")))
    show(match.sync(client=client, body=m.MatchBodyForm(image=file(), texts=["a cat", "a dog, asleep"])))
    vector = embed.sync(client=client, body=m.EmbedBody(kind=m.EmbedBodyKind.TEXT, text="a cat"))
    assert isinstance(vector, m.EmbedRecord) and all(isinstance(value, float) for value in vector.vector)
    show(vector)
    show(embed.sync(client=client, body=m.EmbedBody(images=[TEXT, BAD])))
    show(embed.sync(client=client, body=m.EmbedBodyForm(image=file())))
    heat = explain.sync(client=client, body=m.ExplainBody(image=TEXT, text="a cat"))
    assert isinstance(heat, m.ExplainRecord) and isinstance(heat.maps[0][0][0], float) and heat.overlays[0].png
    show(heat)
    show(explain.sync(client=client, body=m.ExplainBodyForm(image=file())))
    show(models.sync(client=client))
    show(index.sync(client=client))
    show(healthz.sync(client=client))
    show(readyz.sync(client=client))
    show(openapi.sync(client=client))
    refused = caption.sync(client=client, body=m.CaptionBody(image=BAD))
    assert isinstance(refused, m.Error) and refused.error.code.value == "bad_image"
    show(refused)
