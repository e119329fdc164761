"""Rows of Parquet files, and of the Arrow files in folders that Hugging Face `datasets` saves.

Images in the file stay there until they are read. A damaged row group costs its own rows only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip.io import arrow_files, row_groups
from blip.io.byte_sources import MAX_IMAGE_BYTES
from blip.io.columns import Columns
from blip.io.row import Position, Row
from blip_lite.errors import UnreadableImage, UsageError
from blip_lite.image_bytes import read_bytes

_ROWS = 1024  # at a time
_BYTES = 64 << 20  # of rows at a time


@dataclass(frozen=True, slots=True)
class TableCell:
    """An image in a Parquet or Arrow file: bytes, or the struct of bytes and path that `datasets` writes."""

    path: Path
    group: int
    row: int
    column: str = "image"

    def __str__(self) -> str:
        return f"{self.path}:{self.group}:{self.row}"

    def read(self) -> bytes:
        try:
            value = row_groups.cell(self.path, self.group, self.column, self.row)
        except UsageError as error:
            raise UnreadableImage(str(self), str(error).removeprefix(f"{self.path}: ")) from error
        except arrow_files.errors() as error:
            raise UnreadableImage(str(self), f"cannot be read ({arrow_files.one_line(error)})") from error
        if isinstance(value, dict):
            value = value.get("bytes") or self._file(value.get("path"))
        if not isinstance(value, bytes):
            raise UnreadableImage(str(self), "no image bytes in this row")
        if len(value) > MAX_IMAGE_BYTES:
            raise UnreadableImage(str(self), f"{len(value) >> 20} MiB; at most {MAX_IMAGE_BYTES >> 20} MiB are read")
        return value

    def _file(self, name: object) -> bytes | None:
        """Return the bytes of the file that a row names instead of containing them, relative to the table."""
        if not isinstance(name, str) or not name:
            return None
        return read_bytes(self.path.parent / name, name, MAX_IMAGE_BYTES)


def columns(path: Path) -> list[str]:
    """Return the names of the columns."""
    if path.suffix.lower() == ".arrow":
        return list(arrow_files.arrow(path).schema.names)
    return list(arrow_files.parquet(path).schema_arrow.names)


def count(path: Path) -> int:
    """Return the number of rows."""
    if path.suffix.lower() == ".arrow":
        return int(arrow_files.arrow(path).num_rows)
    return int(arrow_files.parquet(path).metadata.num_rows)


def rows(path: Path, image: str | None) -> Iterator[Row]:
    """Yield rows; an image column that holds no text yields a `TableCell`. Raises `UsageError`, `MissingExtra`."""
    row_groups.forget()
    if path.suffix.lower() == ".arrow":
        yield from _arrow_rows(path, image)
    else:
        yield from _parquet_rows(path, image)


def _parquet_rows(path: Path, image: str | None) -> Iterator[Row]:
    file = arrow_files.parquet(path)
    schema = file.schema_arrow
    deferred = image if image is not None and not arrow_files.is_text(schema.field(image).type) else None
    names = [name for name in schema.names if name != deferred]
    first = 1  # row of the group, from 1
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        done = 0
        try:
            for values in _group_rows(file, group, names) if names else ({} for _ in range(count)):
                done += 1
                if deferred is not None:
                    values[deferred] = TableCell(path, group, done - 1, deferred)
                position = Position(group, done - 1, first + done - 1)
                yield Row(f"{path}:{position.number}", values, None, position)
        except arrow_files.errors() as error:
            where = f"{path}:{first + done}-{first + count - 1}"
            yield Row(where, {}, f"damaged rows in row group {group} ({arrow_files.one_line(error)})")
        first += count


def _group_rows(file: Any, group: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a row group as dicts without missing values, a bounded number of bytes at a time."""
    size, count = arrow_files.group_bytes(file, group, names), file.metadata.row_group(group).num_rows
    batch = max(1, min(_ROWS, _BYTES * count // max(size, 1)))
    for part in file.iter_batches(batch, row_groups=[group], columns=names):
        for values in part.to_pylist():
            yield {name: value for name, value in values.items() if value is not None}


def _arrow_rows(path: Path, image: str | None) -> Iterator[Row]:
    table = arrow_files.arrow(path)
    deferred = image if image is not None and not arrow_files.is_text(table.schema.field(image).type) else None
    rest = table.drop_columns([deferred]) if deferred is not None else table
    parts = (values for batch in rest.to_batches(_ROWS) for values in batch.to_pylist())
    for row in range(table.num_rows):
        values = {name: value for name, value in next(parts, {}).items() if value is not None}
        if deferred is not None:
            values[deferred] = TableCell(path, 0, row, deferred)
        yield Row(f"{path}:{row + 1}", values, None, Position(0, row, row + 1))


def row_at(path: Path, columns: Columns, position: Position) -> Row:
    """Return the row at a position that `rows` has yielded."""
    group, row, number = position
    where = f"{path}:{number}"
    try:
        deferred = row_groups.deferred_column(path, columns.image_column(row_groups.column_names(path)))
        values = row_groups.values(path, group, row, without=deferred)
    except arrow_files.errors() as error:
        return Row(where, {}, f"damaged rows in row group {group} ({arrow_files.one_line(error)})", position)
    if deferred is not None:
        values[deferred] = TableCell(path, group, row, deferred)
    return Row(where, values, None, position)
