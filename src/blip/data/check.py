"""What is wrong with a data source: rows that cannot be read, images missing or broken, no text, rows given twice.

A source is gone through once, row by row; of each row and image 8 bytes stay, so lists of any length can be checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from blip.io import manifests, readers
from blip.io.readers import Columns, ReadResult
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord, UnreadableImage, UsageError

T = TypeVar("T")
BATCH = 512  # rows looked at together


class Seen:
    """Which 64-bit values came before: sorted runs of falling length, 8 bytes a value."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, values: Sequence[int]) -> NDArray[np.bool_]:
        """For each value whether it came before, in this call or another."""
        given = np.array(values, dtype=np.uint64)
        distinct, first = np.unique(given, return_index=True)
        known = np.zeros(len(distinct), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, distinct).clip(max=len(run) - 1)
            known |= run[places] == distinct
        before = np.ones(len(given), dtype=bool)
        before[first] = known
        self._keep(distinct[~known])
        return before

    def _keep(self, new: NDArray[np.uint64]) -> None:
        if not len(new):
            return
        self._runs.append(new)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")
            self._runs.append(merged)


def hash64(text: str) -> int:
    """64 bits of a text. That any two of 100 million differ in it has probability 0.9997."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def texts_of(record: Sample) -> tuple[str, ...]:
    """The texts of a row, or what a VQA or NLVR2 row has in their place."""
    values = (record.fields.get(name) for name in ("question", "sentence"))
    return record.texts or tuple(v for v in values if isinstance(v, str) and v.strip())[:1]


def is_table(name: str) -> bool:
    """Whether a source is a file of rows, in which an image may come again with another text."""
    return os.path.splitext(name)[1].lower() in manifests.EXTENSIONS and not os.path.isdir(name)


@dataclass(kw_only=True)
class Check:
    """Goes through files and folders; iterating gives one line a problem, the counts are whole at the end.

    decode: read every image; without, only whether files exist. need_text: a row without text is a problem.
    A key given twice is one, and in a table without keys a row that is equal to an earlier one.
    """

    names: Sequence[str]
    columns: Columns = field(default_factory=Columns)
    decode: bool = True
    need_text: bool = True
    workers: int = 1
    tick: Callable[[int], None] | None = None  # told the rows so far, now and then
    rows: int = 0
    texts: int = 0
    problems: int = 0

    def __post_init__(self) -> None:
        self._rows_seen, self._images_seen = Seen(), Seen()

    @property
    def images(self) -> int:
        """How many different images there are."""
        return len(self._images_seen)

    def __iter__(self) -> Iterator[str]:
        with ThreadPoolExecutor(self.workers) as pool:
            for name in self.names:
                for batch in batches(_read(name, self.columns)):
                    for line in self._problems(batch, not is_table(name), pool):
                        self.problems += 1
                        yield line

    def _problems(self, batch: Sequence[ReadResult], by_key: bool, pool: ThreadPoolExecutor) -> list[str]:
        self.rows += len(batch)
        if self.tick is not None:
            self.tick(self.rows)
        records = [(i, found) for i, found in enumerate(batch) if isinstance(found, Sample)]
        lines = [(i, str(found)) for i, found in enumerate(batch) if isinstance(found, BadRecord)]
        lines += [(i, f"{record.where}: no text") for i, record in records if self._lacks_text(record)]
        lines += self._image_problems(records, pool)
        lines += self._repeats(records, by_key)
        return [line for _, line in sorted(lines, key=lambda one: one[0])]

    def _lacks_text(self, record: Sample) -> bool:
        count = len(texts_of(record))
        self.texts += count
        return self.need_text and not count

    def _image_problems(self, records: Sequence[tuple[int, Sample]], pool: ThreadPoolExecutor) -> list[tuple[int, str]]:
        """Each image is looked at once, wherever else it comes."""
        refs = [(i, record.where, ref) for i, record in records for ref in record.images]
        before = self._images_seen.add([hash64(image_mark(ref)) for _, _, ref in refs])
        new = [one for one, known in zip(refs, before, strict=True) if not known]
        reasons = pool.map(self._image_problem, (ref for _, _, ref in new))
        return [
            (i, reason if reason.startswith(f"{where}:") else f"{reason} ({where})")
            for (i, where, _), reason in zip(new, reasons, strict=True)
            if reason
        ]

    def _image_problem(self, ref: ImageRef) -> str:
        try:
            if self.decode:
                ref.read()
            elif ref.path is not None and not ref.path.is_file():
                raise UnreadableImage(str(ref.path), "no such file")
        except UnreadableImage as error:
            return str(error)
        return ""

    def _repeats(self, records: Sequence[tuple[int, Sample]], by_key: bool) -> list[tuple[int, str]]:
        named = [by_key or self.columns.key is not None or "key" in record.fields for _, record in records]
        marks = [_mark(record, keyed) for (_, record), keyed in zip(records, named, strict=True)]
        before = self._rows_seen.add([hash64(mark) for mark in marks])
        return [
            (i, f"{record.where}: " + (f"key '{record.key}' again" if keyed else "equal to an earlier row"))
            for (i, record), keyed, known in zip(records, named, before, strict=True)
            if known
        ]


def image_mark(ref: ImageRef) -> str:
    """What an image has in common with itself alone."""
    return str(ref.source) if isinstance(ref.source, Path) else repr(ref.source)


def _mark(record: Sample, keyed: bool) -> str:
    return f"key {record.key}" if keyed else f"row {record.images!r} {record.texts!r} {dict(record.fields)!r}"


def _read(name: str, columns: Columns) -> Iterator[ReadResult]:
    """Rows of one source; one that cannot be read, or not to its end, is a bad row."""
    try:
        yield from readers.read(name, columns)
    except UsageError as error:
        yield BadRecord(name, str(error).removeprefix(f"{name}: "))
