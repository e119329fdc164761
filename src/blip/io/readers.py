"""Readers of images with texts: WebDataset shards, tables, folders. Every source is read by these.

Each yields a `Sample` for a good row and a `BadRecord` for a bad one, in file order. Images are located, not opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from blip.io import image_cells, saved_datasets, shard_reader, table_reader
from blip.io.columns import Columns, Located, ReadResult
from blip.io.folder_reader import folder
from blip.io.row import Position, Row
from blip_lite.errors import BadRecord, UsageError


def read(name: str, columns: Columns) -> Iterator[ReadResult]:
    """Yield the samples of one file or folder. Raises `UsageError` if it cannot be read or holds nothing."""
    for _, result in located(name, columns):
        yield result


def located(name: str, columns: Columns) -> Iterator[Located]:
    """Yield the results of `read` with their positions, None for those that cannot be read alone."""
    number = 0
    for number, result in enumerate(_read(name, columns), 1):  # noqa: B007 (used after the loop)
        yield result
    if not number:
        raise UsageError(f"{name}: holds no samples{explain_empty(name)}")


def read_at(path: Path, position: Position, columns: Columns) -> ReadResult:
    """Return the sample at a position that `located` has yielded. Raises `UsageError` if the file has changed."""
    if is_shard(path.name):
        return shard_reader.sample_at(path, position, columns)
    return _result(table_reader.row_at(path, position, columns), columns, columns.roots or (path.parent,))


def _read(name: str, columns: Columns) -> Iterator[Located]:
    if os.path.isdir(name):
        if saved_datasets.is_saved(Path(name)):
            return ((None, result) for result in saved_dataset(Path(name), columns))
        return ((None, result) for result in folder(Path(name), columns))
    if is_shard(name):
        return shard_reader.located(Path(name), columns)
    if is_table(name):
        return _located_rows(Path(name), columns)
    kinds = " ".join((".tar", *table_reader.EXTENSIONS))
    problem = "not a data source" if os.path.exists(name) else "no such file"
    raise UsageError(f"{name}: {problem}; must be a folder or one of {kinds}")


def is_shard(name: str) -> bool:
    return name.lower().endswith(shard_reader.EXTENSIONS)


def is_table(name: str) -> bool:
    return name.lower().endswith(table_reader.EXTENSIONS)


def explain_empty(name: str) -> str:
    """Return a hint on what to name instead of a folder without images, or an empty string."""
    try:
        names = sorted(os.listdir(name))
    except OSError:
        return ""
    for matches, what in ((is_shard, "shards"), (is_table, "tables")):
        files = [file for file in names if matches(file)]
        if files:
            return f"; name the {what} themselves: {name.rstrip('/')}/*{Path(files[0]).suffix}"
    return "" if names else " (an empty folder)"


def table(path: Path, columns: Columns) -> Iterator[ReadResult]:
    """Yield the rows of a .json (the original's lists), .jsonl, .csv, .tsv, .parquet or .arrow file."""
    for _, result in _located_rows(path, columns):
        yield result


def _located_rows(path: Path, columns: Columns) -> Iterator[Located]:
    roots = columns.roots or (path.parent,)
    for row in table_reader.rows(path, columns):
        yield row.position, _result(row, columns, roots)


def _result(row: Row, columns: Columns, roots: Sequence[Path]) -> ReadResult:
    key = image_cells.key(row.values, columns, row.where)
    try:
        if row.problem is not None:
            raise BadRecord(row.where, row.problem)
        images = image_cells.images(row.values, columns, roots, row.where)
        column = columns.image_column(row.values)
        return columns.sample(row.values, images, key, row.where, column=column)
    except BadRecord as error:
        return BadRecord(error.where, error.reason, key=key)


def saved_dataset(path: Path, columns: Columns) -> Iterator[ReadResult]:
    """Yield the rows of a folder that `save_to_disk` of Hugging Face `datasets` wrote."""
    columns = replace(columns, roots=columns.roots or (path,))
    for file in saved_datasets.arrow_files(path):
        yield from table(file, columns)
