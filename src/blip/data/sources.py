"""Data sources: whatever the user names, as a sequence of records that can be read in any order.

Opening a source reads tables and shard headers once, never an image. Records are small values, so a source can be
sent to worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from blip.data import formats
from blip.data.formats import Columns
from blip.data.records import ImageRef, Record
from blip.errors import BadRecord, UsageError
from blip.io.inputs import expand_braces

__all__ = ["ImageRef", "Record", "Records", "Source", "concatenate", "open_source"]

Spec = str | os.PathLike[str]


class Source(Protocol):
    """A sequence of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


class Records:
    """A source held in memory: locations and texts, no images. `skipped` are the rows that were left out."""

    def __init__(self, records: Sequence[Record], skipped: Sequence[BadRecord] = ()) -> None:
        self.records, self.skipped = tuple(records), tuple(skipped)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> Record:
        return self.records[index]


def open_source(
    spec: Spec | Sequence[Spec],
    *,
    root: Spec | None = None,
    image_column: str = "image",
    text_column: str | None = None,
    key_column: str | None = None,
    require_text: bool = False,
    skip_bad: bool = False,
) -> Records:
    """The records of one or several sources, one after the other.

    A spec is a folder of images with `.txt` beside them (one text a line), WebDataset shards (`a-{00..05}.tar`; an
    image with a `.json` or `.txt` of the same name), or a table: .json (the original's lists), .jsonl, .csv, .tsv,
    .parquet. Image paths in a table are relative to `root`, else to the table. Without `text_column` the texts are
    in the first of `caption`, `captions`, `text`, `texts` that a row has, and a row may have none unless
    `require_text`. Texts stay as they are in the file. A bad row raises `BadRecord` with file and row; with
    `skip_bad` it is listed in `skipped`. Raises `UsageError` for files that cannot be read and when nothing is found.
    """
    columns = Columns(
        root=None if root is None else Path(root),
        image=image_column,
        text=text_column,
        key=key_column,
        need_text=require_text,
    )
    records: list[Record] = []
    skipped: list[BadRecord] = []
    for name in _names(spec):
        for found in formats.read(name, columns):
            if isinstance(found, Record):
                records.append(found)
            elif skip_bad:
                skipped.append(found)
            else:
                raise found
    if not records:
        first = f"; first of {len(skipped)} bad rows: {skipped[0]}" if skipped else ""
        raise UsageError(f"{spec}: holds no records{first}")
    return Records(records, skipped)


def concatenate(sources: Sequence[Source]) -> Records:
    """Several sources as one, in the given order."""
    records = [source[i] for source in sources for i in range(len(source))]
    return Records(records, [bad for source in sources for bad in getattr(source, "skipped", ())])


def _names(spec: Spec | Sequence[Spec]) -> list[str]:
    names: list[str] = []
    for given in [spec] if isinstance(spec, str | os.PathLike) else spec:
        one = os.fspath(given)
        names += [one] if os.path.lexists(one) else expand_braces(one)
    return names
