"""Results of the tabs: photos and texts in, pictures, rows and HTML tables out. Independent of gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal

from PIL import Image

from blip.apps.demo.uploads import Photo, as_html
from blip_lite.decoding import make_decoding
from blip_lite.errors import UsageError
from blip_lite.explanation import Explanation
from blip_lite.model import Model
from blip_lite.results import Caption

MAP_SIZE = 480  # pixels
LabelledImages = list[tuple[Image.Image, str]]


def captions(
    model: Model, photo: Photo, method: Literal["beam", "nucleus"], count: int, top_p: float, seed: int
) -> list[Caption]:
    """Return up to `count` captions, best first, without repeated texts."""
    decoding = make_decoding(sample=method == "nucleus", num_captions=count, top_p=top_p)
    best = model.caption_batch([photo.image], decoding, seed=seed)[0]
    by_text = {caption.text: caption for caption in (best, *best.alternatives)}
    return list(by_text.values())


def heat_maps(explanation: Explanation) -> LabelledImages:
    """Return a heat-map for each word, preceded by their mean if there are several words."""
    words = explanation.words()
    mean = [(explanation.overlay(size=MAP_SIZE), "all words")] if len(words.tokens) > 1 else []
    return mean + [(words.overlay(i, MAP_SIZE), word) for i, word in enumerate(words.tokens)]


def answers(model: Model, photo: Photo, question: str, choices: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Return answers with their scores, best first: generated ones, or chosen from `choices` if there are any."""
    if choices:
        best = model.answer_batch([photo.image], [question], answers=choices, top=min(top, len(choices)))[0]
    else:
        best = model.answer_batch([photo.image], [question], top=top)[0]
    return [(best.text, best.score), *((other.text, other.score) for other in best.alternatives)]


def match_table(model: Model, photos: Sequence[Photo], texts: Sequence[str]) -> str:
    """Return a table of texts by photos: the probability of a match, with the cosine below."""
    scores = model.match_batch([photo.image for photo in photos], texts)
    assert scores.itm is not None and scores.itc is not None, "match computes both by default"
    rows = []
    for i, text in enumerate(texts):
        pairs = zip(scores.itm[:, i], scores.itc[:, i], strict=True)
        rows.append((html.escape(text), [cell(float(itm), f"{itm:.0%}", f"cosine {itc:.2f}") for itm, itc in pairs]))
    return table("match probability", [as_html(photo) for photo in photos], rows)


def similarity_table(model: Model, photos: Sequence[Photo]) -> str:
    """Return a table of photos by photos: the cosines of their vectors."""
    if len(photos) < 2:
        raise UsageError("only one photo; similarity needs at least two")
    vectors = model.embed_image_batch([photo.image for photo in photos])
    cosines = vectors.similarity(vectors)
    headings, minimum = [as_html(photo) for photo in photos], float(min(cosines.min(), 0.99))
    rows = [
        (heading, [cell(float(cosine - minimum) / (1 - minimum), f"{cosine:.2f}") for cosine in row])
        for heading, row in zip(headings, cosines, strict=True)
    ]
    return table("cosine", headings, rows)


def cell(shade: float, text: str, note: str = "") -> str:
    """Return a table cell as HTML, with the note below the text. shade: from 0 (light) to 1 (dark)."""
    heat = round(100 * min(1.0, max(0.0, shade)))
    small = f"<small>{html.escape(note)}</small>" if note else ""
    return f'<td style="--heat: {heat}%">{html.escape(text)}{small}</td>'


def table(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table as HTML, which scrolls sideways on a narrow page. Headings and cells are HTML already."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f'<tr><th scope="row">{heading}</th>{"".join(cells)}</tr>' for heading, cells in rows)
    corner = html.escape(corner)
    return (
        f'<div class="scores"><table><thead><tr><th>{corner}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
