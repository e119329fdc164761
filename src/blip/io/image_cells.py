"""The images that a row of a table refers to: paths, base64, data URLs, and cells of binary tables."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from blip.io.arrow_reader import TableCell
from blip.io.byte_sources import InlineImage, MissingSource, TarMember
from blip.io.columns import IMAGE_COLUMNS, Columns
from blip.io.paths import is_url, posix_path
from blip.io.samples import ImageRef
from blip_lite.errors import BadRecord
from blip_lite.sniff import image_format
from blip_lite.text_files import parse_json

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64}")
FAILED = ("failed_to_download", "failed_to_resize")  # values of img2dataset's column `status`
_DATA_URL = re.compile(r"data:[^,;]*(;[^,;]*)*,", re.IGNORECASE)


def images(values: Mapping[str, Any], columns: Columns, roots: Sequence[Path], where: str) -> tuple[ImageRef, ...]:
    """Return the images of a row: one, or two in a list (NLVR2). Raises `BadRecord`.

    The image of a row of img2dataset whose download failed raises the reason when it is read.
    """
    if (failed := _failed_download(values, where)) is not None:
        return (ImageRef(failed),)
    column = columns.image_column([name for name, value in values.items() if value is not None])
    if column is None and columns.image is None and values.get("images") is not None:
        column = "images"
    value = values[column] if column is not None else None
    if (member := _tar_member(value, values, roots, where)) is not None:
        return (ImageRef(member),)
    items = _parse_list(value)
    refs = tuple(_refs(items if isinstance(items, list) and items else [value], columns, roots, where))
    if not refs:
        hint = "" if columns.image is not None or column is not None else "; --image-column names another"
        name = column or columns.image or IMAGE_COLUMNS[0]
        raise BadRecord(where, f"no image path in column '{name}'; columns are {', '.join(values) or 'none'}{hint}")
    return refs


def key(values: Mapping[str, Any], columns: Columns, where: str) -> str:
    """Return the row's `key`, else the path of its image, else file name and row."""
    named, row = values.get("key"), os.path.basename(where)
    column = columns.image_column(values)
    value = named or (values[column] if column is not None else None)
    if isinstance(value, str) and named is None and _inline(value) is not None:
        return row
    return str(value) if isinstance(value, str | int) else row


def _refs(items: Sequence[Any], columns: Columns, roots: Sequence[Path], where: str) -> Iterator[ImageRef]:
    for item in items:
        if isinstance(item, TableCell):
            yield ImageRef(item)
        elif isinstance(item, dict) and isinstance(item.get("path"), str):  # a struct of `datasets`, without its bytes
            yield ImageRef(_locate(item["path"], roots, where))
        elif not isinstance(item, str) or not item.strip():
            return
        elif (data := _inline(item)) is not None:
            yield ImageRef(InlineImage(where, data))
        elif is_url(item) and columns.url_reason is not None:
            yield ImageRef(MissingSource(item, columns.url_reason))
        elif is_url(item):
            raise BadRecord(where, f"image '{item}' is a URL; download it first, URLs in tables are not fetched")
        else:
            yield ImageRef(_locate(item, roots, where))


def _failed_download(values: Mapping[str, Any], where: str) -> MissingSource | None:
    """Return the image of a row of img2dataset's tables whose `status` is a failure."""
    status, reason, url = (values.get(name) for name in ("status", "error_message", "url"))
    if not isinstance(status, str) or status not in FAILED:
        return None
    return MissingSource(url if isinstance(url, str) else where, str(reason or status.replace("_", " ")))


def _tar_member(value: Any, values: Mapping[str, Any], roots: Sequence[Path], where: str) -> TarMember | None:
    """Return the image of a row `TAR/MEMBER` with `offset` and `size`, as `blip capfilt select` writes it."""
    offset, size = values.get("offset"), values.get("size")
    if not (isinstance(value, str) and isinstance(offset, int) and isinstance(size, int)):
        return None
    shard, tar, name = value.partition(".tar/")
    return TarMember(_locate(f"{shard}.tar", roots, where), name, offset, size) if tar else None


def _inline(item: str) -> str | None:
    """Return the base64 text of a data URL, or of an image in base64; None for a path."""
    if match := _DATA_URL.match(item):
        return item[match.end() :]
    if _BASE64.match(item) is None:
        return None
    start = item[:64].replace("-", "+").replace("_", "/")
    return item if image_format(base64.b64decode(start)) else None


def _parse_list(value: Any) -> Any:
    """Return the list that a table stores as JSON text, else the value itself."""
    if not (isinstance(value, str) and value.startswith("[")):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value


def _locate(name: str, roots: Sequence[Path], where: str) -> Path:
    if name.lower().startswith("file://"):
        name = unquote(urlsplit(name).path)
    candidates = [root / name for root in roots]
    if "\\" in name and os.sep == "/" and not any(path.exists() for path in candidates):  # written on Windows
        relative = posix_path(name)
        if relative is None:
            raise BadRecord(where, f"image '{name}' is a path on Windows; must be relative to the table or --root")
        candidates = [root / relative for root in roots]
    first = candidates[0]
    return first if len(roots) == 1 else next((path for path in candidates if path.exists()), first)
