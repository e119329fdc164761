"""Problems of a data source: unreadable rows, missing or damaged images, rows without text, duplicate rows.

A source is read once, row by row. Memory use is 8 bytes per row and image, so lists of any length can be checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from blip.io import readers, table_reader
from blip.io.columns import Columns, ReadResult
from blip.io.ordered_map import batched, ordered_map
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord, UnreadableImage, UsageError

BATCH = 512  # rows


class HashSet64:
    """A set of 64-bit values as sorted runs of decreasing length, 8 bytes per value."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, values: Sequence[int]) -> NDArray[np.bool_]:
        """Add values; return for each whether it is a repetition, of this call or an earlier one."""
        array = np.array(values, dtype=np.uint64)
        distinct, first = np.unique(array, return_index=True)
        known = np.zeros(len(distinct), dtype=bool)
        for run in self._runs:
            indices = np.searchsorted(run, distinct).clip(max=len(run) - 1)
            known |= run[indices] == distinct
        repeated = np.ones(len(array), dtype=bool)
        repeated[first] = known
        self._insert(distinct[~known])
        return repeated

    def _insert(self, new: NDArray[np.uint64]) -> None:
        if not len(new):
            return
        self._runs.append(new)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")
            self._runs.append(merged)


def hash64(text: str) -> int:
    """Return a 64-bit hash of a text. 100 million texts have different ones with probability 0.9997."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def texts_of(sample: Sample) -> tuple[str, ...]:
    """Return the texts of a row, or the question or sentence that a VQA or NLVR2 row has instead."""
    values = (sample.fields.get(name) for name in ("question", "sentence"))
    return sample.texts or tuple(v for v in values if isinstance(v, str) and v.strip())[:1]


def _is_table(name: str) -> bool:
    """Whether a source is a table, in which an image may occur several times with different texts."""
    return name.lower().endswith(table_reader.EXTENSIONS) and not os.path.isdir(name)


@dataclass(kw_only=True)
class Check:
    """Checks files and folders: iterating yields one line per problem; the counts are complete at the end.

    decode: decode every image instead of only testing that files exist. need_text: a row without text is a problem.
    A repeated key is a problem, in a table without keys a row that equals an earlier one. `tick` is called with the
    number of rows so far.
    """

    names: Sequence[str]
    columns: Columns = field(default_factory=Columns)
    decode: bool = True
    need_text: bool = True
    workers: int = 1
    tick: Callable[[int], None] | None = None
    rows: int = 0
    texts: int = 0
    problems: int = 0

    def __post_init__(self) -> None:
        self._rows_seen, self._images_seen = HashSet64(), HashSet64()

    @property
    def images(self) -> int:
        """Number of distinct images."""
        return len(self._images_seen)

    def __iter__(self) -> Iterator[str]:
        for name in self.names:
            for batch in batched(_read(name, self.columns), BATCH):
                for line in self._problems(batch, not _is_table(name)):
                    self.problems += 1
                    yield line

    def _problems(self, batch: Sequence[ReadResult], by_key: bool) -> list[str]:
        self.rows += len(batch)
        if self.tick is not None:
            self.tick(self.rows)
        samples = [(i, result) for i, result in enumerate(batch) if isinstance(result, Sample)]
        lines = [(i, str(result)) for i, result in enumerate(batch) if isinstance(result, BadRecord)]
        lines += [(i, f"{sample.where}: no text") for i, sample in samples if self._lacks_text(sample)]
        lines += self._image_problems(samples)
        lines += self._repeated_rows(samples, by_key)
        return [line for _, line in sorted(lines, key=lambda item: item[0])]

    def _lacks_text(self, sample: Sample) -> bool:
        count = len(texts_of(sample))
        self.texts += count
        return self.need_text and not count

    def _image_problems(self, samples: Sequence[tuple[int, Sample]]) -> list[tuple[int, str]]:
        """Check each image where it occurs first."""
        refs = [(i, sample.where, ref) for i, sample in samples for ref in sample.images]
        repeated = self._images_seen.add([hash64(location_id(ref)) for _, _, ref in refs])
        new = [item for item, known in zip(refs, repeated, strict=True) if not known]
        reasons = ordered_map(self._image_problem, (ref for _, _, ref in new), ahead=BATCH, workers=self.workers)
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

    def _repeated_rows(self, samples: Sequence[tuple[int, Sample]], by_key: bool) -> list[tuple[int, str]]:
        has_key = [by_key or self.columns.key is not None or "key" in sample.fields for _, sample in samples]
        ids = [_row_id(sample, keyed) for (_, sample), keyed in zip(samples, has_key, strict=True)]
        repeated = self._rows_seen.add([hash64(row_id) for row_id in ids])
        return [
            (i, f"{sample.where}: " + (f"duplicate key '{sample.key}'" if keyed else "equal to an earlier row"))
            for (i, sample), keyed, known in zip(samples, has_key, repeated, strict=True)
            if known
        ]


def location_id(ref: ImageRef) -> str:
    """Return a text that is equal for equal locations only."""
    return repr(ref.source) if ref.path is None else str(ref.path)


def _row_id(sample: Sample, keyed: bool) -> str:
    return f"key {sample.key}" if keyed else f"row {sample.images!r} {sample.texts!r} {dict(sample.fields)!r}"


def _read(name: str, columns: Columns) -> Iterator[ReadResult]:
    """Yield the rows of a source; one that cannot be read, or not to its end, is a bad row."""
    try:
        yield from readers.read(name, columns)
    except UsageError as error:
        yield BadRecord(name, str(error).removeprefix(f"{name}: "))
