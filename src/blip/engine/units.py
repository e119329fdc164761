"""Units of work: a shard of a data set each, with one output file. Listing them reads no image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from blip.io import folder_reader, readers, saved_datasets, table_reader
from blip.io.columns import Columns, ReadResult
from blip.io.paths import ListOptions
from blip_lite.errors import BadRecord, UsageError

ROWS = 10_000  # of a table or folder in one unit, as many as img2dataset writes to a shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A tar, or some consecutive rows of a table or folder."""

    name: str  # stem of its output file; an output folder makes it unique
    source: str  # file or folder as named by the user
    start: int = 0  # first row, from 0
    rows: int | None = None  # number of rows; None: to the end
    size: int  # bytes of the file, or number of images of the folder: a change is noticed


def list_units(names: Sequence[str], columns: Columns, rows: int = ROWS) -> list[Unit]:
    """Return the units of tars, tables and folders in order: a tar each, or up to `rows` rows.

    Tables are counted, folders listed. A file without rows, or that cannot be read, is one unit whose reading yields
    the reason. Raises `UsageError` for other files and for those that do not exist.
    """
    return [unit for name in names for source in _files(name) for unit in _split(source, columns, rows)]


def _files(name: str) -> list[str]:
    """Return the name itself, or the Arrow files of a saved dataset."""
    if os.path.isdir(name):
        path = Path(name)
        return [str(file) for file in saved_datasets.arrow_files(path)] if saved_datasets.is_saved(path) else [name]
    if not (readers.is_shard(name) or readers.is_table(name)) or not os.path.exists(name):
        next(readers.read(name, columns=Columns()))  # raises the reason
    return [name]


def _split(source: str, columns: Columns, rows: int) -> Iterator[Unit]:
    is_folder = os.path.isdir(source)
    name = os.path.basename(os.path.realpath(source)) if is_folder else Path(source).stem
    if readers.is_shard(source):
        yield Unit(name=name, source=source, size=os.path.getsize(source))
        return
    count = _count_images(source, columns) if is_folder else _count_rows(source)
    if is_folder and not count:
        next(readers.read(source, columns))  # raises the reason
    size = count if is_folder else os.path.getsize(source)
    if count <= rows:
        yield Unit(name=name, source=source, rows=count or None, size=size)
        return
    for start in range(0, count, rows):
        part = min(rows, count - start)
        yield Unit(name=f"{name}-{start:09}", source=source, start=start, rows=part, size=size)


def _count_images(folder: str, columns: Columns) -> int:
    return sum(1 for _ in folder_reader.folder(Path(folder), columns, ListOptions(), sidecars=False))


def _count_rows(table: str) -> int:
    try:
        return table_reader.count(Path(table))
    except UsageError:
        return 0


_reading: dict[tuple[str, int, Columns], tuple[int, Iterator[ReadResult]]] = {}  # position and reader of the last table


def read(unit: Unit, columns: Columns) -> Iterator[ReadResult]:
    """Yield the samples and bad rows of a unit; a file that cannot be read ends with a bad row.

    The reader of a table or folder stays open, so that units in ascending order read it once.
    """
    key = unit.source, unit.size, columns
    position, results = _reading.pop(key, (0, iter(())))
    if position == 0 or position > unit.start:
        position, results = 0, _read(unit.source, columns)
    _reading.clear()
    yield from islice(islice(results, unit.start - position, None), unit.rows)
    if unit.rows is not None:
        _reading[key] = unit.start + unit.rows, results


def _read(source: str, columns: Columns) -> Iterator[ReadResult]:
    try:
        yield from readers.read(source, columns)
    except UsageError as error:
        yield BadRecord(source, str(error).removeprefix(f"{source}: "))
