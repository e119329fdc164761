"""From the body of a request, JSON or a form, to its validated fields and images."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError
from starlette.datastructures import Headers

from blip.apps.serve.forms import NamedImage, parse_form
from blip.apps.serve.images import ImageSource
from blip.apps.serve.jobs import Problem, encodable
from blip.apps.serve.request_models import IMAGES, Body
from blip.apps.serve.settings import Settings
from blip_lite.errors import did_you_mean

TYPES = "application/json or multipart/form-data"
_PARSERS = ThreadPoolExecutor(2, thread_name_prefix="json")  # few: a body takes several times its size meanwhile


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A validated body and its images; none for texts alone."""

    body: Body
    sources: list[ImageSource]


async def parse_request(
    headers: Headers, stream: AsyncGenerator[bytes, None], body_type: type[Body], settings: Settings
) -> ParsedRequest:
    """Read a body. Raises Problem: 400 invalid JSON or form, 413 too many images, 415 another type, 422 a field."""
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    files: list[NamedImage] = []
    if media == "application/json":
        data = bytearray()
        async for chunk in stream:
            data += chunk
        values = await asyncio.get_running_loop().run_in_executor(_PARSERS, _parse_json, data)
    elif media == "multipart/form-data":
        values, files = await parse_form(headers, stream, body_type)
    else:
        raise Problem("unsupported_type", f"Content-Type {media[:80] or 'missing'}; must be {TYPES}")
    body = _validate(values, body_type, strict=media == "application/json")
    if body.num_images > settings.max_images:
        raise Problem("too_many", f"{body.num_images} images; at most {settings.max_images} per request")
    return ParsedRequest(body, _sources(body, files))


def _parse_json(data: bytearray) -> Any:
    try:
        text = data.decode("utf-8")
        return json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_unique_fields)  # noqa: TID251
    except (ValueError, RecursionError) as error:
        raise Problem("bad_request", f"the body is not valid JSON ({str(error)[:120]})") from error


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("duplicate field")
    return values


def _validate(values: Any, body_type: type[Body], *, strict: bool) -> Body:
    if not isinstance(values, Mapping):
        raise Problem("bad_field", "the body must be a JSON object")
    try:
        return body_type.model_validate(values, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = [str(part) for part in first["loc"]]
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = f"unknown field{did_you_mean(path[-1], body_type.model_fields)}"
        name = ".".join(path)[:80]
        message = f"{name}: {reason}" if name else reason
        raise Problem("bad_field", message, field=path[0][:80] if path else None) from None


def _sources(body: Body, files: list[NamedImage]) -> list[ImageSource]:
    field = next((name for name in IMAGES if getattr(body, name) is not None), "")
    if not field:
        return []
    value: str | list[str] = getattr(body, field)
    texts = value if isinstance(value, list) else [value]
    keys = [str(i) for i in range(len(texts))]
    if files:
        names = body.keys or _distinct([encodable(name)[:500] or keys[i] for i, (name, _) in enumerate(files)])
        return [ImageSource(name, field, data) for name, (_, data) in zip(names, files, strict=True)]
    if field in ("url", "urls"):
        return [ImageSource(k, field, url=url) for k, url in zip(body.keys or _distinct(texts), texts, strict=True)]
    return [ImageSource(key, field, text) for key, text in zip(body.keys or keys, texts, strict=True)]


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number appended to repeated ones."""
    counts: dict[str, int] = {}
    results = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        results.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return results
