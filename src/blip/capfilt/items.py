"""The images of a unit with their texts: what is read before any image is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blip.engine import units
from blip.engine.units import Unit
from blip.io.byte_sources import MissingSource, TarMember
from blip.io.columns import Columns
from blip.io.paths import is_url
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord

URL_REASON = "the image is a URL; --fetch downloads it"
TRUE = ("true", "yes", "1", "1.0", "t", "y")


@dataclass(frozen=True, slots=True)
class Item:
    """An image with its texts, or the reason why it cannot be used. `image` is None without one.

    place: the columns of a score row from `key` to `url`. copies: for each text the values of copied columns; without
    texts, those of the row.
    """

    place: dict[str, Any]
    image: ImageRef | None = None
    texts: tuple[str, ...] = ()
    copies: tuple[tuple[Any, ...], ...] = ()
    is_human: bool = False
    error: str | None = None

    @property
    def key(self) -> str:
        return str(self.place["key"])


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options for reading the rows of units. human_column: its rows that are true hold human texts."""

    columns: Columns = field(default_factory=Columns)
    human_column: str | None = None
    copy_columns: tuple[str, ...] = ()

    def items(self, unit: Unit) -> Iterator[Item]:
        """Yield the images of a unit, each under a key of its own, and its bad rows.

        Consecutive rows with the same image are one item with the texts of all, as lists with a row per text have them.
        A key that returns with another image is an error.
        """
        columns = replace(self.columns, url_reason=URL_REASON)
        images: dict[str, Any] = {}  # by key
        current: Item | None = None
        last: Item | None = None  # the first row of `current`, under the key that the data give it
        for result in units.read(unit, columns):
            item = self._bad(unit, result) if isinstance(result, BadRecord) else self._item(unit, result)
            if current is not None and last is not None and _same_image(last, item):
                current = replace(current, texts=current.texts + item.texts, copies=current.copies + item.copies)
                continue
            if current is not None:
                yield current
            current, last = _with_unique_key(item, images), item
        if current is not None:
            yield current

    def _item(self, unit: Unit, sample: Sample) -> Item:
        copies = tuple(sample.fields.get(name) for name in self.copy_columns)
        flag = None if self.human_column is None else sample.fields.get(self.human_column)
        item = Item(
            place=_place(unit, sample),
            image=sample.image,
            texts=sample.texts,
            copies=(copies,) * max(1, len(sample.texts)),
            is_human=str(flag).strip().lower() in TRUE,
        )
        return item if len(sample.images) == 1 else replace(item, error=f"{len(sample.images)} images in one row")

    def _bad(self, unit: Unit, error: BadRecord) -> Item:
        name = os.path.basename(os.path.normpath(unit.source))
        key = error.key or name + error.where.removeprefix(unit.source)
        place = {"key": key, "shard": unit.source, "row": _row(unit, error.where)}
        return Item(place=place, copies=((None,) * len(self.copy_columns),), error=error.reason)


def _place(unit: Unit, sample: Sample) -> dict[str, Any]:
    source, url = sample.image.source, sample.fields.get("url")
    place = {"key": sample.key, "shard": unit.source, "row": _row(unit, sample.where), "url": url}
    if isinstance(source, TarMember):
        shard = unit.source if source.shard == Path(unit.source) else str(source.shard)  # a table that names members
        return {**place, "shard": shard, "image": source.name, "offset": source.offset, "size": source.size}
    if isinstance(source, MissingSource):
        return {**place, "image": source.key, "url": source.key if is_url(source.key) else url}
    return place if sample.path is None else {**place, "image": str(sample.path)}


def _row(unit: Unit, where: str) -> int | None:
    """Return the number of a row of a table, from 1, as messages have it."""
    number = where.removeprefix(f"{unit.source}:")
    return int(number) if number.isdigit() and number != where else None


def _same_image(a: Item, b: Item) -> bool:
    return a.error is b.error is None and (a.key, a.image, a.is_human) == (b.key, b.image, b.is_human)


def _with_unique_key(item: Item, images: dict[str, Any]) -> Item:
    """Return the item under a key that no other item has; `images` are those of the keys so far."""
    key, source = item.key, None if item.image is None else item.image.source
    if key not in images:
        images[key] = source
        return item
    number = 2
    while f"{key} ({number})" in images:
        number += 1
    repeated = f"{key} ({number})"
    images[repeated] = source
    error = item.error or ("duplicate key of another image" if source != images[key] else None)
    return replace(item, place={**item.place, "key": repeated}, error=error)
