"""Rows of tables of images: .jsonl, .json, .csv, .tsv, .parquet and .arrow files."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from blip.io import annotation_files, arrow_files, arrow_reader, csv_reader
from blip.io.byte_sources import read_at
from blip.io.columns import IMAGE_COLUMNS, Columns
from blip.io.row import Position, Row
from blip_lite.errors import UsageError
from blip_lite.text_files import encoding_of, open_text, parse_json

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", *arrow_files.EXTENSIONS)
_JSON_CHARACTERS = 1 << 20  # read at a time
_SPACE = re.compile(r"[ \t\n\r]*")


def rows(path: Path, columns: Columns | None) -> Iterator[Row]:
    """Yield the rows of a table in file order, a part in memory at a time. A bad row has a `problem`.

    Other files raise `UsageError`, as do tables with a header without an image column (`columns` None: any header).
    """
    suffix = path.suffix.lower()
    with _reading(path):
        if suffix in arrow_files.EXTENSIONS:
            yield from arrow_reader.rows(path, _image_column(path, arrow_reader.columns(path), columns))
        elif suffix == ".json":
            yield from _json_rows(path)
        elif suffix in (".csv", ".tsv"):
            _image_column(path, csv_reader.columns(path), columns)
            yield from csv_reader.rows(path)
        else:
            yield from _jsonl_rows(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn failures of reading a file into `UsageError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error


def count(path: Path) -> int:
    """Return the number of rows that `rows` yields, or more if row groups of a Parquet file are damaged.

    Values are parsed only where rows cannot be counted otherwise. Raises `UsageError`.
    """
    suffix = path.suffix.lower()
    if suffix in arrow_files.EXTENSIONS:
        return arrow_reader.count(path)
    if suffix in (".jsonl", ".ndjson"):
        with _reading(path), open_text(path, newline="\n") as file:
            return sum(1 for line in file if line.strip())
    return sum(1 for _ in rows(path, None))


def _image_column(path: Path, names: list[str], columns: Columns | None) -> str | None:
    """Return the name of the image's column. Raises `UsageError` if there is none."""
    if columns is None:
        return None
    name = columns.image_column(names)
    if name is None and "images" not in names:  # two images in a row
        hint = "" if columns.image is not None else "; --image-column names another"
        expected = columns.image or IMAGE_COLUMNS[0]
        raise UsageError(f"{path}: has no column '{expected}'; columns are {', '.join(names) or 'none'}{hint}")
    return name


def row_at(path: Path, position: Position, columns: Columns) -> Row:
    """Return the row at a position that `rows` has yielded. Raises `UsageError` if the file has changed."""
    suffix = path.suffix.lower()
    with _reading(path):
        if suffix in arrow_files.EXTENSIONS:
            return arrow_reader.row_at(path, columns, position)
        data = read_at(path, position.offset, position.size)
    try:
        value = parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: has changed while it was in use (no row at byte {position.offset:,})") from error
    return _row(f"{path}:{position.number}", value, position)


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with open_text(path, newline="\n") as file:
        offset = _start(path)
        for number, line in enumerate(file, 1):
            size = _bytes(line)
            position = None if offset is None else Position(offset, size, number)
            offset = None if offset is None else offset + size
            if line.strip():
                try:
                    yield _row(f"{path}:{number}", parse_json(line), position)
                except ValueError as error:
                    yield Row(f"{path}:{number}", {}, f"not a JSON object ({error})")


def _start(path: Path) -> int | None:
    """Return the position of the first character of a UTF-8 text, None in another encoding."""
    with open(path, "rb") as file:
        start = file.read(4)
    if encoding_of(start) != "utf-8-sig":
        return None
    return len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0


def _bytes(text: str) -> int:
    """Return the length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _json_rows(path: Path) -> Iterator[Row]:
    with open_text(path, newline="") as file:
        start = file.read(1024).lstrip()
    if start.startswith("{"):  # the annotation files of COCO and VQA
        yield from annotation_files.rows(path)
        return
    with open_text(path, newline="") as file:
        first = _start(path)
        for number, (value, offset, size) in enumerate(_JsonList(path, file), 1):
            position = None if first is None else Position(first + offset, size, number)
            yield _row(f"{path}:{number}", value, position)


class _JsonList(Iterator[tuple[Any, int, int]]):
    """The elements of a JSON list with their offset and size in bytes; the published lists have 100M rows.

    A part of the text is in memory at a time.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file, self._decoder = path, file, json.JSONDecoder()
        self._text, self._at, self._line = "", 0, 1
        self._offset = self._counted = 0  # bytes before the character at `_counted`
        if self._next_character() != "[":
            raise UsageError(f"{path}: must be a JSON list of objects with a field 'image'")
        self._at += 1
        self._first = True

    def __next__(self) -> tuple[Any, int, int]:
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
        start = self._count_bytes()
        value = self._element()
        return value, start, self._count_bytes() - start

    def _count_bytes(self) -> int:
        """Return the number of bytes before the current character."""
        self._offset += _bytes(self._text[self._counted : self._at])
        self._counted = self._at
        return self._offset

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
        self._count_bytes()
        remaining = self._text[self._at :]
        text = self._file.read(max(_JSON_CHARACTERS, len(remaining)))
        self._text, self._at, self._counted = remaining + text, 0, 0
        return bool(text)

    def _fail(self, reason: str) -> NoReturn:
        line = self._line + self._text.count("\n", 0, self._at)
        raise UsageError(f"{self._path}:{line}: not JSON ({reason})")


def _row(where: str, value: Any, position: Position | None) -> Row:
    if not isinstance(value, dict):
        return Row(where, {}, f"not a JSON object but {type(value).__name__}", position)
    return Row(where, value, None, position)
