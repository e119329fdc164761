"""Decoded row groups of Parquet files and memory-mapped Arrow files, of which the last ones are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from blip.io import arrow_files
from blip_lite.errors import UsageError

MAX_GROUP_BYTES = 4 << 30  # of the image column of a row group, which is read at once
KEPT_BYTES = 256 << 20  # of decoded row groups in a process; the last two are kept whatever their size


class _Recent:
    """The last tables that were read, up to a number of bytes."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Any, Any] = OrderedDict()  # Any: pyarrow has no types
        self._lock = Lock()

    def get(self, key: tuple[object, ...], read: Callable[[], Any]) -> Any:  # Any: pyarrow has no types
        """Return the table of a key, read if it is not kept."""
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        table = read()
        with self._lock:
            self._tables[key] = table
            while len(self._tables) > 2 and sum(t.nbytes for t in self._tables.values()) > KEPT_BYTES:
                self._tables.popitem(last=False)
        return table

    def clear(self) -> None:
        self._tables.clear()


recent = _Recent()
_arrow = lru_cache(maxsize=4)(arrow_files.arrow)


@lru_cache(maxsize=64)
def _schema(path: Path) -> Any:  # Any: pyarrow has no types
    return _arrow(path).schema if _is_arrow(path) else arrow_files.parquet(path).schema_arrow


def forget() -> None:
    """Drop what is kept: files may have been replaced since they were read."""
    recent.clear()
    _arrow.cache_clear()
    _schema.cache_clear()


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns; it is opened once."""
    return list(_schema(path).names)


def deferred_column(path: Path, image: str | None) -> str | None:
    """Return the image's column if it holds no text, so that it is read apart from the others."""
    return image if image is not None and not arrow_files.is_text(_schema(path).field(image).type) else None


def cell(path: Path, group: int, column: str, row: int) -> Any:  # Any: value of a table
    """Return the value of a cell; row counts from 0 in its group. Raises `UsageError` for a group that is too large."""
    if _is_arrow(path):
        return _arrow(path).column(column)[row].as_py()
    return recent.get((path, group, column), lambda: _read_images(path, group, column))[row].as_py()


def values(path: Path, group: int, row: int, without: str | None) -> dict[str, Any]:
    """Return the values of a row that are not missing, without those of one column."""
    names = [name for name in column_names(path) if name != without]
    if not names:
        return {}
    if _is_arrow(path):
        part = _arrow(path).select(names).slice(row, 1)
    else:
        part = recent.get((path, group, without, "others"), lambda: _read_group(path, group, names)).slice(row, 1)
    (cells,) = part.to_pylist()
    return {name: value for name, value in cells.items() if value is not None}


def _read_images(path: Path, group: int, column: str) -> Any:
    file = arrow_files.parquet(path)
    if (size := arrow_files.group_bytes(file, group, [column])) > MAX_GROUP_BYTES:
        limit = f"at most {MAX_GROUP_BYTES >> 30} GiB are read; write smaller row groups"
        raise UsageError(f"row group {group} holds {size / (1 << 30):.1f} GiB of images; {limit}")
    return file.read_row_group(group, columns=[column]).column(column)


def _read_group(path: Path, group: int, names: list[str]) -> Any:
    return arrow_files.parquet(path).read_row_group(group, columns=names)


def _is_arrow(path: Path) -> bool:
    return path.suffix.lower() == ".arrow"
