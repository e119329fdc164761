"""Indexes on disk: where each row of a file is, so that any row can be read and none is held in memory.

An index is built once, into the folder `.blip` beside the file, or into the cache if that cannot be written. It belongs
to a file of one size and time of change, and to the columns and checks it was read with; otherwise it is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blip.data.row_reader import RowReader
from blip.io import readers
from blip.io.arrow_files import EXTENSIONS as GROUPED
from blip.io.atomic import atomic_path
from blip.io.columns import Located
from blip.io.fetch import cache_dir
from blip.io.lock import exclusive
from blip.io.row import Position
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, EnvironmentProblem
from blip_lite.text_files import parse_json

FOLDER = ".blip"
SHARD_ROWS = 10_000  # of a larger file in one shard; as many as img2dataset writes to a tar
SHOWN = 20  # bad rows of a file that an index describes; the others are counted
_GROUP_ROWS = 1000  # smaller row groups are joined to shards
_RECORD = np.dtype([("offset", "<u8"), ("size", "<u4"), ("number", "<u4")])  # of a `Position`
_BLOCK = 1 << 16  # records that are mapped together
_END = b"blip-row"  # after the length of the description
_TAIL = 1 << 14  # bytes that usually contain the description


class NoPositions(Exception):
    """Rows of a file cannot be read alone: a CSV, a folder, the annotations of COCO or VQA."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowIndex:
    """Positions of the good rows of a file. shards: numbers of rows that are consecutive in the file."""

    file: Path
    path: Path
    built: int  # time of change of `path`, in ns
    reader: RowReader
    shards: tuple[int, ...]
    bad: int
    first_bad: tuple[BadRecord, ...]
    bytes: int  # of the file

    @property
    def is_shard(self) -> bool:
        """Whether the file is a tar, which contains the images."""
        return readers.is_shard(self.file.name)

    def __len__(self) -> int:
        return sum(self.shards)

    def position(self, row: int) -> Position:
        """Return the place of a row, from 0."""
        block, place = divmod(row, _BLOCK)
        offset, size, number = _records(self.path, self.built, block)[place].item()
        return Position(offset, size, number)

    def read(self, row: int) -> Sample:
        """Return a row. Raises `BadRecord` and `UsageError` if it can no longer be read."""
        return self.reader.read(self.file, self.position(row))


def load(file: Path, reader: RowReader) -> RowIndex | None:
    """Return the index of a file, None if there is none or it is out of date."""
    return next((index for path in _paths(file, reader) if (index := _load(path, file, reader)) is not None), None)


def build(file: Path, reader: RowReader) -> RowIndex:
    """Return the index of a file; it is built, unless another process has done so meanwhile.

    Raises `NoPositions`, also for what is not a file, and what reading the file raises.
    """
    if not file.is_file():
        raise NoPositions
    beside, cached = _paths(file, reader)
    folder = beside.parent if beside.parent.is_dir() else file.parent
    path = beside if os.access(folder, os.W_OK) else cached
    try:
        with exclusive(path, wait=-1):
            index = load(file, reader)
            if index is not None:
                return index
            with atomic_path(path) as temporary:
                _write(temporary, file, reader)
            index = _load(path, file, reader)
    except NoPositions:
        with suppress(OSError):  # contains other indexes
            path.parent.rmdir()
        raise
    if index is None:
        raise EnvironmentProblem(f"{file}: has changed while its index was built; run the command again")
    return index


def _paths(file: Path, reader: RowReader) -> tuple[Path, Path]:
    """Return the places of an index: beside the file, and in the cache."""
    mark = hashlib.sha256(json.dumps(reader.settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{file.name}.{mark}.rows"
    folder = hashlib.sha256(os.fsencode(os.path.realpath(file.parent))).hexdigest()[:16]
    return file.parent / FOLDER / name, cache_dir() / "rows" / folder / name


def _stamp(file: Path) -> dict[str, int]:
    status = file.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _load(path: Path, file: Path, reader: RowReader) -> RowIndex | None:
    try:
        described = _description(path)
        if described is None or {name: described[name] for name in ("size", "mtime_ns")} != _stamp(file):
            return None
        bad = tuple(BadRecord(where, reason) for where, reason in described["first_bad"])
        return RowIndex(
            file=file,
            path=path,
            built=path.stat().st_mtime_ns,
            reader=reader,
            shards=tuple(described["shards"]),
            bad=described["bad"],
            first_bad=bad,
            bytes=described["size"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _description(path: Path) -> dict[str, Any] | None:
    """Return the description at the end of an index, None if it is damaged."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TAIL, 0))
        tail = file.read()
        length = int.from_bytes(tail[-16:-8], "little")
        if tail[-8:] != _END or length > size - 16:
            return None
        if length + 16 > len(tail):
            file.seek(size - 16 - length)
            tail = file.read()
    described: dict[str, Any] = parse_json(tail[-16 - length : -16])
    return described if size - 16 - length == sum(described["shards"]) * _RECORD.itemsize else None


def _write(path: Path, file: Path, reader: RowReader) -> None:
    stamp = _stamp(file)
    bad = _BadRows()
    shards: list[int] = []
    with open(path, "wb") as output:
        for shard in _shards(bad.filter(reader.rows(str(file))), grouped=file.suffix.lower() in GROUPED):
            output.write(np.array(shard, _RECORD).tobytes())
            shards.append(len(shard))
        described = {**stamp, "shards": shards, "bad": bad.count, "first_bad": bad.first, "settings": reader.settings}
        data = json.dumps(described).encode()
        output.write(data + len(data).to_bytes(8, "little") + _END)


class _BadRows:
    """Counts bad rows and keeps the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[str, str]] = []

    def filter(self, rows: Iterator[Located]) -> Iterator[Position]:
        """Yield the positions of the good rows. Raises `NoPositions`."""
        for position, result in rows:
            if isinstance(result, Sample) and position is None:
                raise NoPositions
            if isinstance(result, Sample) and position is not None and position.size >= 1 << 32:
                result = BadRecord(result.where, "has files of more than 4 GiB")
            if isinstance(result, BadRecord):
                self.count += 1
                self.first += [(result.where, result.reason)] if len(self.first) < SHOWN else []
            elif position is not None:
                yield position


def _shards(positions: Iterator[Position], *, grouped: bool) -> Iterator[list[Position]]:
    """Part rows into shards; those of a row group stay together, since it is read as a whole."""
    shard: list[Position] = []
    for position in positions:
        full = len(shard) >= (_GROUP_ROWS if grouped else SHARD_ROWS)
        if full and not (grouped and shard[-1].offset == position.offset and len(shard) < SHARD_ROWS):
            yield shard
            shard = []
        shard.append(position)
    if shard:
        yield shard


@lru_cache(maxsize=64)
def _records(path: Path, built: int, block: int) -> NDArray[Any]:
    """Return records mapped from an index: mapped parts that are not kept here need no memory."""
    count = min(_BLOCK, (path.stat().st_size // _RECORD.itemsize) - block * _BLOCK)
    return np.asarray(np.memmap(path, _RECORD, "r", offset=block * _BLOCK * _RECORD.itemsize, shape=(count,)))
