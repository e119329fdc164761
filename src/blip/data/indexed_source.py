"""Sources of any number of rows: each row is read from its file when it is needed, through an index on disk."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blip.data import row_index
from blip.data.row_index import NoPositions, RowIndex
from blip.data.row_reader import RowReader, SampleCheck
from blip.data.sources import Reading, SampleList, Source, Spec, TooManyRows, concatenate, expand
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UsageError

logger = logging.getLogger(__name__)
REPORT_SECONDS = 30.0  # between lines on the progress of building indexes
Section = RowIndex | SampleList


class ByteRange(NamedTuple):
    """Consecutive bytes of a file."""

    file: Path
    start: int
    end: int


class IndexedSource:
    """The rows of files in order, as their indexes list them; files without positions are held in memory.

    parts: numbers of consecutive rows, one for each spec that was opened.
    """

    def __init__(self, sections: Sequence[Section], parts: Sequence[int]) -> None:
        self.sections, self.parts = tuple(sections), tuple(parts)
        self._starts = np.cumsum([0, *map(len, self.sections)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        section, row = self.sections[number], index - int(self._starts[number])
        return section.read(row) if isinstance(section, RowIndex) else section[row]

    @property
    def indexes(self) -> list[RowIndex]:
        """The indexes of the files that have one."""
        return [section for section in self.sections if isinstance(section, RowIndex)]

    @property
    def shards(self) -> NDArray[np.int64]:
        """Numbers of consecutive rows [S] that are near each other on disk."""
        return np.array([size for section in self.sections for size in _shards(section)], np.int64)

    def byte_range(self, first: int, count: int) -> ByteRange | None:
        """Return the bytes of the rows of a shard, None if they are not stored together."""
        number = int(np.searchsorted(self._starts, first, side="right")) - 1
        section, row = self.sections[number], first - int(self._starts[number])
        if isinstance(section, SampleList) or not section.is_shard:
            return None
        last = section.position(row + count - 1)
        return ByteRange(section.file, section.position(row).offset, last.offset + last.size)


def _shards(section: Section) -> Sequence[int]:
    if isinstance(section, RowIndex):
        return section.shards
    size = row_index.SHARD_ROWS
    return [min(size, len(section) - start) for start in range(0, len(section), size)]


def open_for_training(
    reading: Reading, spec: Spec | Sequence[Spec], *, need_text: bool = False, check: SampleCheck | None = None
) -> SampleList | IndexedSource:
    """Return the samples of `spec` like `reading.open`; more than `reading.memory_rows` rows stay on disk.

    Bad rows are found when an index is built. Missing image files are not: like other unreadable images they are
    reported when their turn comes.
    """
    specs = expand(spec)
    names = [name for names in specs for name in names]
    reader = reading.reader(need_text, check)
    indexes = {name: row_index.load(Path(name), reader) for name in names}
    known = sum(len(index) + index.bad for index in indexes.values() if index is not None)
    if known <= reading.memory_rows and reading.memory_rows:
        try:
            return reading.open(spec, need_text=need_text, check=check, most=reading.memory_rows)
        except TooManyRows:
            pass
    sections = list(_sections(names, indexes, reader, reading))
    bounds = np.cumsum([0, *map(len, specs)])
    parts = [sum(map(len, sections[a:b])) for a, b in pairwise(bounds)]
    source = IndexedSource(sections, parts)
    _warn([index for index in source.indexes if index.bad])
    if not len(source):
        raise UsageError(f"{', '.join(specs[0][:3])}: holds no usable rows")
    return source


def join(sources: Sequence[Source]) -> SampleList | IndexedSource:
    """Return the rows of several sources in the given order."""
    if not any(isinstance(source, IndexedSource) for source in sources):
        return concatenate(sources)
    parts = [source.sections if isinstance(source, IndexedSource) else (concatenate([source]),) for source in sources]
    return IndexedSource([section for part in parts for section in part], [len(source) for source in sources])


def _sections(
    names: Sequence[str], indexes: dict[str, RowIndex | None], reader: RowReader, reading: Reading
) -> Iterator[Section]:
    """Yield the rows of each file; missing indexes are built. Raises the first bad row unless these are skipped."""
    for name, built in _build([name for name, index in indexes.items() if index is None], reader):
        indexes[name] = built
        if built is not None and built.bad and not reading.skip_bad:
            raise built.first_bad[0]
    for name in names:
        index = indexes[name]
        if index is None:
            yield reading.open(name, need_text=reader.columns.need_text, check=reader.check)
        elif index.bad and not reading.skip_bad:
            raise index.first_bad[0]
        else:
            yield index


def _build(names: Sequence[str], reader: RowReader) -> Iterator[tuple[str, RowIndex | None]]:
    """Build indexes in several processes; yield them in order, None for files whose rows have no positions.

    Each process of a run builds others first, so that they share the work.
    """
    if not names:
        return
    from blip.runtime import cores  # imports torch, which is not needed to read a config

    workers = min(cores(), len(names))
    logger.warning("%d of the data files get an index, which is built once", len(names))
    order = Random(os.getpid()).sample(names, len(names))
    start = reported = time.monotonic()
    with ProcessPoolExecutor(workers, initializer=_ignore_signals) as pool:
        futures = {name: pool.submit(_build_one, name, reader) for name in order}
        try:
            for name in names:
                yield name, futures[name].result()
                now = time.monotonic()
                if now - reported > REPORT_SECONDS:
                    reported = now
                    done = sum(future.done() for future in futures.values())
                    left = (now - start) / done * (len(names) - done) / 60
                    logger.warning("%d of %d indexes built, about %.0f min left", done, len(names), left)
        finally:
            pool.shutdown(cancel_futures=True)


def _build_one(name: str, reader: RowReader) -> RowIndex | None:
    try:
        return row_index.build(Path(name), reader)
    except NoPositions:
        return None


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _warn(indexes: Sequence[RowIndex]) -> None:
    """List the first bad rows that indexes leave out in a warning."""
    first: list[BadRecord] = [bad for index in indexes for bad in index.first_bad][: row_index.SHOWN]
    count = sum(index.bad for index in indexes)
    if count:
        shown = f", the first {len(first)} of them" if count > len(first) else ""
        logger.warning("%d bad row%s left out%s:\n%s", count, "s" * (count > 1), shown, "\n".join(map(str, first)))
