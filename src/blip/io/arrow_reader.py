"""Rows of Parquet files, and of the Arrow files in folders that Hugging Face `datasets` saves.

Images in the file stay there until they are read. A damaged row group costs its own rows only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blip.io.byte_sources import MAX_IMAGE_BYTES
from blip.io.row import Row
from blip_lite.errors import MissingExtra, UnreadableImage, UsageError
from blip_lite.image_bytes import read_bytes

EXTENSIONS = (".parquet", ".arrow")
MAX_GROUP_BYTES = 4 << 30  # of the image column of a row group, which is read at once
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
            value = _column(self.path, self.group, self.column)[self.row].as_py()
        except UsageError as error:
            raise UnreadableImage(str(self), str(error).removeprefix(f"{self.path}: ")) from error
        except _errors() as error:
            raise UnreadableImage(str(self), f"cannot be read ({_one_line(error)})") from error
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
        return list(_arrow(path).schema.names)
    return list(_parquet(path).schema_arrow.names)


def count(path: Path) -> int:
    """Return the number of rows."""
    return int(_arrow(path).num_rows if path.suffix.lower() == ".arrow" else _parquet(path).metadata.num_rows)


def rows(path: Path, image: str | None) -> Iterator[Row]:
    """Yield rows; an image column that holds no text yields a `TableCell`. Raises `UsageError`, `MissingExtra`."""
    if path.suffix.lower() == ".arrow":
        yield from _arrow_rows(path, image)
    else:
        yield from _parquet_rows(path, image)


def _parquet_rows(path: Path, image: str | None) -> Iterator[Row]:
    file = _parquet(path)
    schema = file.schema_arrow
    deferred = image if image is not None and not _is_text(schema.field(image).type) else None
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
                yield Row(f"{path}:{first + done - 1}", values)
        except _errors() as error:
            where = f"{path}:{first + done}-{first + count - 1}"
            yield Row(where, {}, f"damaged rows in row group {group} ({_one_line(error)})")
        first += count


def _group_rows(file: Any, group: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a row group as dicts without missing values, a bounded number of bytes at a time."""
    size, count = _group_bytes(file, group, names), file.metadata.row_group(group).num_rows
    batch = max(1, min(_ROWS, _BYTES * count // max(size, 1)))
    for part in file.iter_batches(batch, row_groups=[group], columns=names):
        for values in part.to_pylist():
            yield {name: value for name, value in values.items() if value is not None}


def _group_bytes(file: Any, group: int, names: list[str]) -> int:
    metadata = file.metadata.row_group(group)
    chunks = (metadata.column(i) for i in range(metadata.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in names)


def _arrow_rows(path: Path, image: str | None) -> Iterator[Row]:
    table = _arrow(path)
    deferred = image if image is not None and not _is_text(table.schema.field(image).type) else None
    rest = table.drop_columns([deferred]) if deferred is not None else table
    parts = (values for batch in rest.to_batches(_ROWS) for values in batch.to_pylist())
    for row in range(table.num_rows):
        values = {name: value for name, value in next(parts, {}).items() if value is not None}
        if deferred is not None:
            values[deferred] = TableCell(path, 0, row, deferred)
        yield Row(f"{path}:{row + 1}", values)


def _require_arrow(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        kind = "Arrow" if path.suffix.lower() == ".arrow" else "Parquet"
        raise MissingExtra(f'{path} is {kind}; reading it needs an extra: pip install "blip-vlm[data]"') from error


def _parquet(path: Path) -> Any:
    _require_arrow(path)
    try:
        return importlib.import_module("pyarrow.parquet").ParquetFile(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except _errors() as error:
        raise UsageError(f"{path}: not a readable Parquet file ({_one_line(error)})") from error


def _arrow(path: Path) -> Any:
    """Return a memory-mapped table: the stream that `datasets` writes, or an Arrow file."""
    arrow = _require_arrow(path)
    ipc = importlib.import_module("pyarrow.ipc")
    try:
        with open(path, "rb") as file:
            is_file = file.read(6) == b"ARROW1"
        source = arrow.memory_map(str(path))
        return ipc.open_file(source).read_all() if is_file else ipc.open_stream(source).read_all()
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except _errors() as error:
        raise UsageError(f"{path}: not a readable Arrow file ({_one_line(error)})") from error


@lru_cache(maxsize=2)
def _column(path: Path, group: int, column: str) -> Any:
    if path.suffix.lower() == ".arrow":
        return _arrow(path).column(column)
    file = _parquet(path)
    if (size := _group_bytes(file, group, [column])) > MAX_GROUP_BYTES:
        limit = f"at most {MAX_GROUP_BYTES >> 30} GiB are read; write smaller row groups"
        raise UsageError(f"row group {group} holds {size / (1 << 30):.1f} GiB of images; {limit}")
    return file.read_row_group(group, columns=[column]).column(column)


def _is_text(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that damaged files raise."""
    return (importlib.import_module("pyarrow").ArrowException, OSError, ValueError, OverflowError)


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
