"""Rows of text tables: comma-, semicolon-, tab- or `|`-separated, as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from blip.io.byte_sources import MAX_IMAGE_BYTES
from blip.io.columns import IMAGE_COLUMNS, find_column
from blip.io.row import Row
from blip_lite.errors import UsageError
from blip_lite.text_files import open_text, parse_json

_DELIMITERS = {".csv": (",", ";", "\t", "|"), ".tsv": ("\t", ",", ";", "|")}
_LISTS = ("texts", "answers")  # columns that contain JSON lists
_HEADER = 1 << 20  # characters
_EXCEL = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # the first line of some exports names the separator
MAX_CELL_CHARACTERS = MAX_IMAGE_BYTES // 3 * 4  # an image in base64


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows below the header; empty cells are left out. Raises `UsageError`, `UnicodeDecodeError`."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    with open_text(path, newline="") as file:
        reader, header = _open(path, file)
        while True:
            first = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # the reader continues after this row
                yield Row(f"{path}:{first}", {}, f"not a valid row ({error})")
                continue
            if cells:
                yield _row(f"{path}:{reader.line_num}", header, cells)


def columns(path: Path) -> list[str]:
    """Return the columns of the header."""
    with open_text(path, newline="") as file:
        return _open(path, file)[1]


def _open(path: Path, file: TextIO) -> tuple[Any, list[str]]:  # Any: csv has no public type of readers
    """Return a reader after the header, and the header's columns without outer spaces."""
    start = file.readline(_HEADER)
    before = []
    if excel := _EXCEL.fullmatch(start):
        before, start = ["\n"], file.readline(_HEADER)
    if len(start) == _HEADER:
        raise UsageError(f"{path}: no line of column names (the first line has more than {_HEADER:,} characters)")
    # of equally fitting ones the first
    delimiter = excel[1] if excel else max(_DELIMITERS[path.suffix.lower()], key=lambda d: _fitness(start, d))
    spaced = any(name.startswith(" ") for name in _cells(start, delimiter))
    lines = itertools.chain(before, [start], file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    try:
        names = [name.strip() for name in next((cells for cells in reader if cells), [])]
    except csv.Error as error:
        raise UsageError(f"{path}:1: not a line of column names ({error})") from error
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise UsageError(f"{path}: column '{repeated[0]}' occurs twice; columns are {', '.join(names)}")
    return reader, names


def _fitness(line: str, delimiter: str) -> tuple[bool, int]:
    """Return whether the header has an image column with this delimiter, and its number of columns."""
    cells = _cells(line, delimiter)
    return len(cells) > 1 and find_column(cells, None, IMAGE_COLUMNS) is not None, len(cells)


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _row(where: str, header: list[str], cells: list[str]) -> Row:
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(header):
        return Row(where, {}, f"{len(cells)} columns; the header has {len(header)}")
    try:
        return Row(where, {n: _cell(n, c) for n, c in zip(header, cells, strict=True) if c != ""})
    except ValueError as error:
        return Row(where, {}, str(error))


def _cell(name: str, text: str) -> Any:
    if name in _LISTS and text.startswith("["):
        try:
            return parse_json(text)
        except ValueError as error:
            raise ValueError(f"column '{name}' is not a JSON list ({error})") from error
    return text
