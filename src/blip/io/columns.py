"""The columns of a row that hold its image, texts and key, and the common names that are recognized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blip.io.row import Position
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord
from blip_lite.text_files import parse_json

IMAGE_COLUMNS = (
    "image",
    "image_path",
    "img",
    "img_path",
    "file_name",
    "filename",
    "file",
    "file_path",
    "filepath",
    "image_file",
    "image_name",
    "path",
    "photo",
    "picture",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_url",
    "url",
)
TEXT_COLUMNS = ("caption", "captions", "text", "texts")
ReadResult = Sample | BadRecord
Located = tuple[Position | None, ReadResult]  # None: cannot be read alone


def find_column(names: Iterable[str], requested: str | None, defaults: tuple[str, ...] = ()) -> str | None:
    """Return the column called `requested`, else the first of `defaults`; case and outer spaces may differ."""
    return _find(tuple(names), (requested,) if requested is not None else defaults)


@lru_cache(maxsize=256)
def _find(names: tuple[str, ...], candidates: tuple[str, ...]) -> str | None:
    by_name = {str(name).strip().lower(): name for name in reversed(names)} | {name: name for name in names}
    return next((by_name[name] for c in candidates for name in (c, c.strip().lower()) if name in by_name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The columns that a reader uses. None: the first of `IMAGE_COLUMNS` or `TEXT_COLUMNS` that a row has.

    Names may differ in case. A row may have no text.

    roots: folders that image paths are relative to (default: the table's folder); the first that has the file counts.
    image, text: in shards also the endings of the members to use, such as `input.jpg` and `caption.txt`. With both
    given, the key is what comes before the ending, so that names may contain dots.
    strict: False leaves out texts that cannot be used instead of the row; for inference, which needs the images only.
    keep: the other columns to keep; None keeps all.
    url_reason: the row of an image that is a URL is a sample whose image fails with this reason; None: a bad row.
    """

    roots: tuple[Path, ...] = ()
    image: str | None = None
    text: str | None = None
    key: str | None = None
    need_text: bool = False
    strict: bool = True
    keep: tuple[str, ...] | None = None
    url_reason: str | None = None

    def image_column(self, names: Iterable[str]) -> str | None:
        """Return the image's column among the columns of a row or table, if there is one."""
        return find_column(names, self.image, IMAGE_COLUMNS)

    def sample(
        self, values: Mapping[str, Any], images: tuple[ImageRef, ...], key: str, where: str, *, column: str | None
    ) -> Sample:
        """Return the sample of a row's values, whose images are in `column`. Raises `BadRecord`."""
        name, texts = self._texts(values, where)
        if self.key is not None:
            key_column = find_column(values, self.key)
            if key_column is None or values[key_column] is None:
                raise BadRecord(where, f"no key in column '{self.key}'")
            key = str(values[key_column])
        names = (k for k in values if k not in (column, name)) if self.keep is None else self.keep
        fields = {k: values[k] for k in names if k in values}
        return Sample(key=key, images=images, texts=texts, fields=fields, where=where)

    def _texts(self, values: Mapping[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
        """Return the text column's name and its texts. Raises `BadRecord`."""
        name = find_column([name for name, value in values.items() if value is not None], self.text, TEXT_COLUMNS)
        try:
            texts = _parse_texts(values[name], name, where) if name is not None else ()
        except BadRecord:
            if self.strict:
                raise
            return name, ()
        if not texts and self.strict and (self.need_text or self.text):
            name = name or self.text
            raise BadRecord(where, f"no text in column '{name}'" if name else f"no column of {', '.join(TEXT_COLUMNS)}")
        return name, texts


def _parse_texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith("[") and name.lower() in ("captions", "texts"):
        try:  # tables store lists as JSON text
            value = parse_json(value)
        except ValueError as error:
            raise BadRecord(where, f"column '{name}' is not a JSON list ({error})") from error
    values = [value] if isinstance(value, str) else value
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        kind = f"{value!r:.40}" if not isinstance(value, list) else "a list with other values"
        raise BadRecord(where, f"column '{name}' must be a text or a list of texts, not {kind}")
    return tuple(v for v in values if v.strip())
