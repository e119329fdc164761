"""A request's body, JSON or a form, as checked values: what is asked, and of which images."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from blip.apps.serve.problems import Problem, sendable
from blip.apps.serve.request_models import Body
from blip.apps.serve.settings import Settings
from blip_lite.errors import did_you_mean

Upload = tuple[str, bytes]  # a file's name and content
TYPES = "application/json or multipart/form-data"


class _InMemory(MultiPartParser):
    """Files never go to disk: the size of the whole body is limited."""

    spool_max_size = 1 << 62


@dataclass(frozen=True, slots=True)
class Source:
    """An image as it came: the bytes of a file, base64 of it, or a URL. `field` is what to blame."""

    key: str
    field: str
    data: bytes = b""
    base64: str = ""
    url: str = ""

    async def decoded(self) -> bytes:
        """The bytes of a file. Raises Problem for what is not base64."""
        return self.data or await asyncio.to_thread(_from_base64, self.base64, self.field)


async def read(headers: Headers, stream: AsyncGenerator[bytes, None], kind: type[Body], settings: Settings) -> Asked:
    """What is asked. Raises Problem: 400 no JSON or form, 413 too many images, 415 another type, 422 a field."""
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == "application/json":
        data = b"".join([part async for part in stream])
        files: list[Upload] = []
        values = await asyncio.to_thread(_json, data)
    elif media == "multipart/form-data":
        values, files = await _form(headers, stream, kind)
    else:
        raise Problem("unsupported_type", f"Content-Type {media[:80] or 'missing'}; must be {TYPES}")
    body = _checked(values, kind, strict=media == "application/json")
    if body.count > settings.max_images:
        raise Problem("too_many", f"{body.count} images; at most {settings.max_images} in one request")
    return Asked(body, _sources(body, files))


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked body and its images, none for texts alone."""

    body: Body
    sources: list[Source]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Problem("bad_request", f"the body is not JSON ({str(error)[:120]})") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a field is given twice")
    return values


async def _form(
    headers: Headers, stream: AsyncGenerator[bytes, None], kind: type[Body]
) -> tuple[dict[str, Any], list[Upload]]:
    """Fields as values, with the files' place taken by empty texts, and the files."""
    try:
        parser = _InMemory(headers, stream, max_files=1000, max_fields=1000, max_part_size=1 << 20)
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError, ValueError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise Problem("bad_request", f"the body is not a form ({reason[:120]})") from error
    try:
        values, files = _fields(form, kind)
        return values, [(file.filename or "", await file.read()) for file in files]
    finally:
        await form.close()


def _fields(form: FormData, kind: type[Body]) -> tuple[dict[str, Any], list[UploadFile]]:
    values: dict[str, Any] = {}
    files: list[UploadFile] = []
    for name in dict.fromkeys(form.keys()):
        given = form.getlist(name)
        uploads = [value for value in given if isinstance(value, UploadFile)]
        if uploads and (name not in ("image", "images") or len(uploads) < len(given)):
            raise Problem("bad_field", f"{name[:80]}: files go into image, and nothing else does", field=name[:80])
        files += uploads
        plain: list[Any] = ["" for _ in given] if uploads else given
        target = "images" if name == "image" and len(given) > 1 else name
        if not _is_list(kind, target) and len(plain) > 1:
            raise Problem("bad_field", f"{name[:80]}: given {len(plain)} times; must be given once", field=name[:80])
        values[target] = plain if _is_list(kind, target) else plain[0]
    return values, files


def _is_list(kind: type[Body], name: str) -> bool:
    field = kind.model_fields.get(name)
    return field is not None and "list[" in str(field.annotation)


def _checked(values: Any, kind: type[Body], *, strict: bool) -> Body:
    if not isinstance(values, Mapping):
        raise Problem("bad_field", "the body must be a JSON object")
    try:
        return kind.model_validate(values, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = [str(part) for part in first["loc"]]
        why = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            why = f"unknown field{did_you_mean(path[-1], kind.model_fields)}"
        name = ".".join(path)[:80]
        raise Problem("bad_field", f"{name}: {why}" if name else why, field=path[0][:80] if path else None) from None


def _sources(body: Body, files: list[Upload]) -> list[Source]:
    keys = body.keys or [str(i) for i in range(body.count)]
    if files:
        names = body.keys or _distinct([sendable(name)[:500] or str(i) for i, (name, _) in enumerate(files)])
        field = "image" if body.image is not None else "images"
        return [Source(name, field, data=data) for name, (_, data) in zip(names, files, strict=True)]
    if urls := body.urls or ([body.url] if body.url is not None else []):
        field = "url" if body.url is not None else "urls"
        return [Source(key, field, url=url) for key, url in zip(body.keys or _distinct(urls), urls, strict=True)]
    field, images = ("images", body.images) if body.images is not None else ("image", [body.image or ""])
    return [] if body.texts_alone else [Source(k, field, base64=i) for k, i in zip(keys, images, strict=True)]


def _distinct(names: list[str]) -> list[str]:
    """Names as they are, later ones of the same name numbered."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _from_base64(text: str, field: str) -> bytes:
    head, comma, rest = text.partition(",")
    plain = rest if comma and head.startswith("data:") else text
    try:
        return base64.b64decode(plain.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Problem("bad_image", f"{field}: not base64 of an image file", field=field) from error
