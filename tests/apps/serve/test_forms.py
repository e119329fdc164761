"""Forms: lists, files and base64 in all spellings; everything else is refused with what is allowed."""

from __future__ import annotations

import base64
import textwrap
from typing import Any

import pytest

from blip.apps.serve.settings import Settings
from tests.apps.serve.conftest import error_of, png
from tests.apps.serve.test_app import DirectEngine, caption, responses

PHOTO = png()
TEXT = base64.b64encode(PHOTO).decode()
BOUNDARY = "form-boundary"


def part(name: str, value: str | bytes, parameters: str = "", media: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{parameters}\r\n'
    head += f"Content-Type: {media}\r\n" if media else ""
    return head.encode() + b"\r\n" + (value.encode() if isinstance(value, str) else value) + b"\r\n"


def post_form(endpoint: str, *parts: bytes) -> Any:
    """The response to a form that is written by hand."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    content = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    call = lambda client: client.post(f"/v1/{endpoint}", content=content, headers=headers)  # noqa: E731
    return responses(Settings(), DirectEngine(), call)[0]


def field(name: str, value: str) -> bytes:
    return part(name, value)


IMAGE = part("image", PHOTO, '; filename="a.png"', "image/png")


def test_a_repeated_field_is_a_list() -> None:
    several = post_form("match", IMAGE, field("texts", "a cat"), field("texts", "a dog, asleep"))
    assert [record["text"] for record in several.json()] == ["a cat", "a dog, asleep"]
    single_item = post_form("match", IMAGE, field("texts", "a cat"))
    assert [record["text"] for record in single_item.json()] == ["a cat"]
    single = post_form("match", IMAGE, field("text", "a cat, asleep"))
    assert single.json()["text"] == "a cat, asleep"


@pytest.mark.parametrize(
    ("endpoint", "name", "value"),
    [
        ("answer", "answers", "yes,no"),
        ("answer", "answers", '["yes", "no"]'),
        ("answer", "questions", "what?, who?"),
        ("match", "texts", '["a","b"]'),
        ("match", "texts", "a,b"),
        ("embed", "texts", ' ["a"]'),
        ("match", "keys", '["a", "b"]'),
        ("caption", "images", '["x", "y"]'),
        ("match", "text", ""),
        ("match", "texts", ""),
    ],
)
def test_lists_inside_one_value_are_refused(endpoint: str, name: str, value: str) -> None:
    required = field("question", "what?") if (endpoint, name) == ("answer", "answers") else b""
    image = b"" if name == "images" else IMAGE
    response = post_form(endpoint, image, required, field(name, value))
    assert response.status_code == 422
    if value:
        assert error_of(response)[1:] == ("bad_field", name)


def test_the_refusal_of_a_list_states_how_to_send_it() -> None:
    message = post_form("match", IMAGE, field("texts", '["a","b"]')).json()["error"]["message"]
    assert message == (
        'texts: \'["a","b"]\' is a single value; '
        "repeat the field for each item of a list (-F texts=... -F texts=...), or send JSON"
    )


def test_repeated_single_fields_and_files_in_text_fields_are_refused() -> None:
    assert error_of(post_form("caption", IMAGE, field("beams", "1"), field("beams", "2"))) == (
        422,
        "bad_field",
        "beams",
    )
    file = part("prompt", b"a", '; filename="a.txt"')
    assert error_of(post_form("caption", IMAGE, file)) == (422, "bad_field", "prompt")


@pytest.mark.parametrize(
    "image",
    [
        part("image", PHOTO, media="image/png"),
        part("image", PHOTO, media="application/octet-stream"),
        part("image", PHOTO),
        part("image", PHOTO, '; filename=""', "image/png"),
        part("image", TEXT),
        part("image", textwrap.fill(TEXT, 76)),
        part("image", f"data:image/png;base64,{TEXT}"),
    ],
)
def test_an_image_needs_no_file_name(image: bytes) -> None:
    record = post_form("caption", image, field("beams", "1")).json()
    (expected,) = responses(Settings(), DirectEngine(), caption())
    assert record == expected.json()


def test_images_may_be_sent_as_image_or_images() -> None:
    for name in ("image", "images"):
        records = post_form("caption", part(name, PHOTO), part(name, TEXT), field("beams", "1")).json()
        assert [record["key"] for record in records] == ["0", "1"] and records[0]["text"] == records[1]["text"]


@pytest.mark.parametrize(
    "text",
    [
        textwrap.fill(TEXT, 76),
        TEXT.replace("A", "A\r\n"),
        f" {TEXT}\n",
        TEXT.rstrip("="),
        TEXT.translate(str.maketrans("+/", "-_")),
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;name=a.png;base64,\n{textwrap.fill(TEXT, 64)}",
    ],
)
def test_base64_is_accepted_as_other_programs_write_it(text: str) -> None:
    response, expected = responses(Settings(), DirectEngine(), caption(image=text), caption())
    assert response.json() == expected.json()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://a.example/b.png", "image: a URL; must be an image file in base64"),
        ("data:image/png,%89PNG", "image: a data URL without ';base64'"),
        ("photo.jpg", "image: not base64 of an image file"),
        (TEXT + "=A", "image: not base64 of an image file"),
    ],
)
def test_other_texts_as_images_are_refused(text: str, reason: str) -> None:
    (response,) = responses(Settings(), DirectEngine(), caption(image=text))
    assert error_of(response) == (422, "bad_image", "image") and response.json()["error"]["message"] == reason


@pytest.mark.parametrize("content", ["[" * 5000, '{"image": ' * 5000, '{"image": ' + "[" * 500 + "]" * 500 + "}"])
def test_deeply_nested_json_is_refused(content: str) -> None:
    headers = {"Content-Type": "application/json"}
    call = lambda client: client.post("/v1/caption", content=content, headers=headers)  # noqa: E731
    (response,) = responses(Settings(), DirectEngine(), call)
    assert response.status_code in (400, 422) and error_of(response)[1] in ("bad_request", "bad_field")
