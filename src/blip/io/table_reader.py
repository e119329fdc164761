"""Rows of tables of images: .jsonl, .json, .csv, .tsv and .parquet files with a column `image`."""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TextIO

from blip_lite.errors import MissingExtra, UnreadableImage, UsageError
from blip_lite.text_files import open_text, parse_json

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_LISTS = ("texts", "answers")  # columns that contain JSON lists in csv and tsv
_PARQUET_ROWS = 1024
_JSON_CHARACTERS = 1 << 20  # read at a time
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `where` is file and row, `values` maps columns to values; a bad row has a `problem` instead."""

    where: str
    values: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ParquetCell:
    """An image in a Parquet file: bytes, or the struct of bytes and path that Hugging Face `datasets` writes."""

    path: Path
    group: int
    row: int
    column: str = "image"

    def read(self) -> bytes:
        value = _parquet_column(self.path, self.group, self.column)[self.row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or self._file(value.get("path"))
        if not isinstance(value, bytes):
            raise UnreadableImage(f"{self.path}:{self.group}:{self.row}", "no image bytes in this row")
        return value

    def _file(self, name: object) -> bytes | None:
        """Return the bytes of the file that a row names instead of containing them, relative to the table."""
        if not isinstance(name, str) or not name:
            return None
        try:
            return (self.path.parent / name).read_bytes()
        except OSError as error:
            raise UnreadableImage(name, f"cannot be read ({error.strerror or error})") from error


def rows(path: Path, image: str | None = "image") -> Iterator[Row]:
    """Yield the rows of a table in file order, a part in memory at a time. A bad row has a `problem`.

    Other files raise `UsageError`, as do tables with a header without the column `image` (None: no column is needed).
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path, image)
        elif suffix == ".json":
            yield from _json_rows(path)
        elif suffix in (".csv", ".tsv"):
            yield from _table_rows(path, "\t" if suffix == ".tsv" else ",", image)
        else:
            yield from _jsonl_rows(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield _row(f"{path}:{number}", parse_json(line))
                except ValueError as error:
                    yield Row(f"{path}:{number}", {}, f"not a JSON object ({error})")


def _json_rows(path: Path) -> Iterator[Row]:
    with open_text(path, newline="") as file:
        values = _JsonList(path, file)
        for number, value in enumerate(values, 1):
            yield _row(f"{path}:{number}", value)


class _JsonList(Iterator[Any]):
    """The elements of a JSON list, a part in memory at a time: the published lists have 100M rows."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file, self._decoder = path, file, json.JSONDecoder()
        self._text, self._at, self._line = "", 0, 1
        if self._next_character() != "[":
            raise UsageError(f"{path}: must be a JSON list of objects with a field 'image'")
        self._at += 1
        self._first = True

    def __next__(self) -> Any:
        character = self._next_character()
        if character == "]":
            self._at += 1
            if self._next_character():
                self._fail("Extra data")
            raise StopIteration
        if not self._first:
            if character != ",":
                self._fail("Expecting ',' delimiter")
            self._at += 1
            self._next_character()
        self._first = False
        return self._element()

    def _next_character(self) -> str:
        """Return the next character that is not a space, empty at the end of the file."""
        while True:
            spaces = _SPACE.match(self._text, self._at)
            self._at = spaces.end() if spaces else self._at
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def _element(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                self._fail("nested too deeply")
            except json.JSONDecodeError as error:
                # an incomplete text fails at its end, or at the start of its last string
                incomplete = error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if not (incomplete and self._read_more()):
                    self._at = min(error.pos, len(self._text))
                    self._fail(error.msg)
            else:
                if end < len(self._text) or not self._read_more():  # a number may continue
                    self._at = end
                    return value

    def _read_more(self) -> bool:
        """Read at least as much again as is still unparsed; return False at the end of the file."""
        self._line += self._text.count("\n", 0, self._at)
        remaining = self._text[self._at :]
        text = self._file.read(max(_JSON_CHARACTERS, len(remaining)))
        self._text, self._at = remaining + text, 0
        return bool(text)

    def _fail(self, reason: str) -> NoReturn:
        line = self._line + self._text.count("\n", 0, self._at)
        raise UsageError(f"{self._path}:{line}: not JSON ({reason})")


def _row(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(where, {}, f"not a JSON object but {type(value).__name__}")
    return Row(where, value)


def _table_rows(path: Path, delimiter: str, image: str | None) -> Iterator[Row]:
    with open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
        try:
            header = next(reader, [])
            _require_image(path, header, image)
            for cells in reader:
                if not cells:
                    continue
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(header):
                    yield Row(where, {}, f"{len(cells)} columns; the header has {len(header)}")
                    continue
                try:
                    yield Row(where, {n: _cell(n, c) for n, c in zip(header, cells, strict=True) if c != ""})
                except ValueError as error:
                    yield Row(where, {}, str(error))
        except csv.Error as error:
            raise UsageError(f"{path}:{reader.line_num}: {error}") from error


def _cell(name: str, text: str) -> Any:
    if name in _LISTS and text.startswith("["):
        try:
            return parse_json(text)
        except ValueError as error:
            raise ValueError(f"column '{name}' is not a JSON list ({error})") from error
    return text


def _require_image(path: Path, names: list[str], image: str | None) -> None:
    if image is not None and image not in names:
        raise UsageError(f"{path}: has no column '{image}'; columns are {', '.join(names) or 'none'}")


def _parquet(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra(f'{path} is Parquet; reading it needs an extra: pip install "blip-vlm[data]"') from error
    try:
        return parquet.ParquetFile(path)
    except importlib.import_module("pyarrow").ArrowException as error:
        raise UsageError(f"{path}: not a readable Parquet file ({error})") from error


def _parquet_rows(path: Path, image: str | None) -> Iterator[Row]:
    """Yield rows without image bytes, which stay in the file until they are read."""
    file = _parquet(path)
    names = list(file.schema_arrow.names)
    _require_image(path, names, image)
    deferred = image if image is not None and not _is_text(file.schema_arrow.field(image).type) else None
    columns = [name for name in names if name != deferred]
    number = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        batches = file.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=columns) if columns else ()
        group_rows = (values for batch in batches for values in batch.to_pylist())
        for row in range(count):
            values = {k: v for k, v in next(group_rows, {}).items() if v is not None}
            number += 1
            if deferred is not None:
                values[deferred] = ParquetCell(path, group, row, deferred)
            yield Row(f"{path}:{number}", values)


def _is_text(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


@lru_cache(maxsize=2)
def _parquet_column(path: Path, group: int, column: str) -> Any:
    return _parquet(path).read_row_group(group, columns=[column]).column(column).combine_chunks()
