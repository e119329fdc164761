"""Forms (multipart/form-data) as request fields.

A list is sent by repeating its field, once per item. Images are files, with or without a name, or base64.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from blip.apps.serve.jobs import Problem
from blip.apps.serve.request_models import Body

IMAGE_FIELDS = ("image", "images")  # the fields that take files
MAX_TEXT_BYTES = 1 << 20  # of a part that is not an image
MAX_PARTS = 1000  # of each kind
NamedImage = tuple[str, bytes | str]  # file name, or ""; content of a file, or base64


class _FormParser(MultiPartParser):
    """Reads image parts as files, also those without a file name, and never writes to disk."""

    spool_max_size = 1 << 62  # the size of the whole body is limited

    def on_headers_finished(self) -> None:
        disposition = self._current_part.content_disposition
        _, options = parse_options_header(disposition)
        if disposition and b"filename" not in options and options.get(b"name", b"").decode("latin-1") in IMAGE_FIELDS:
            self._current_part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()


async def parse_form(
    headers: Headers, stream: AsyncGenerator[bytes, None], body_type: type[Body]
) -> tuple[dict[str, Any], list[NamedImage]]:
    """Read the fields of a form, with "-" in place of each image, and its images. Raises Problem (400, 422)."""
    parser = _FormParser(headers, stream, max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=MAX_TEXT_BYTES)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError, ValueError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise Problem("bad_request", f"the body is not a valid form ({reason[:120]})") from error
    try:
        values, files = _fields(form, body_type)
        return values, [_named_image(file.filename or "", await file.read()) for file in files]
    finally:
        await form.close()


def _fields(form: FormData, body_type: type[Body]) -> tuple[dict[str, Any], list[UploadFile]]:
    values: dict[str, Any] = {}
    files: list[UploadFile] = []
    for name in dict.fromkeys(form.keys()):
        parts = form.getlist(name)
        uploads = [part for part in parts if isinstance(part, UploadFile)]
        if uploads and name not in IMAGE_FIELDS:
            raise _bad_field(name, "is not a field for files; must be text")
        files += uploads
        texts = ["-" for _ in uploads] or [str(part) for part in parts]
        target = "images" if name == "image" and len(parts) > 1 else name
        if target in _list_fields(body_type):
            _check_list(target, texts)
            values[target] = texts
        elif len(texts) == 1:
            values[target] = texts[0]
        else:
            raise _bad_field(name, f"given {len(texts)} times; allowed once")
    return values, files


def _list_fields(body_type: type[Body]) -> Collection[str]:
    return {name for name, field in body_type.model_fields.items() if "list[" in str(field.annotation)}


def _check_list(name: str, texts: list[str]) -> None:
    """Refuse a list that is written into one value, which would be taken for a single item."""
    if len(texts) != 1:
        return
    text = texts[0].strip()
    if text.startswith("[") or ("," in text and name in ("answers", "questions", "texts")):
        reason = f"repeat the field for each item of a list (-F {name}=... -F {name}=...), or send JSON"
        raise _bad_field(name, f"'{text[:40]}' is a single value; {reason}")


def _named_image(name: str, data: bytes) -> NamedImage:
    if not name and data.isascii():
        text = data.decode("ascii")
        _check_list("images", [text])
        return "", text
    return name, data


def _bad_field(name: str, reason: str) -> Problem:
    return Problem("bad_field", f"{name[:80]}: {reason}", field=name[:80])
