"""Records as lines of text on standard output or in a file."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from blip.io.records import Record, clean
from blip_lite.terminal import printable

COLUMNS = {
    "caption": ("key", "text"),
    "answer": ("key", "question", "text"),
    "match": ("key", "text", "itm", "itc"),
    "hit": ("score", "path"),
    "embedding": ("key", "kind", "dim"),
}


class TextLines:
    """Formats records as tab-separated lines, or as aligned columns on a terminal. Failed inputs are left out.

    Alternatives follow their record, each on its own line. single: only the last column.
    """

    def __init__(self, columns: Sequence[str], *, single: bool = False, terminal: bool = False) -> None:
        self._columns = tuple(columns[-1:]) if single else tuple(columns)
        self._terminal, self._aligned = terminal, terminal and not single
        self._widths: list[int] | None = None

    def format(self, records: Iterable[Record]) -> str:
        """Return the lines of a batch."""
        results = (result for record in records if "error" not in record for result in _with_alternatives(record))
        rows = [[_cell(result.get(name), self._terminal) for name in self._columns] for result in results]
        lines = self._align(rows) if self._aligned and rows else ["\t".join(row) for row in rows]
        return "".join(line + "\n" for line in lines)

    def _align(self, rows: list[list[str]]) -> list[str]:
        """Align columns to the widest cell so far, with a header before the first batch."""
        if self._widths is None:
            self._widths = [0] * len(self._columns)
            rows = [list(self._columns), *rows] if len(self._columns) > 1 else rows
        for i, width in enumerate(self._widths):
            self._widths[i] = max(width, *(_width(row[i]) for row in rows))
        padded = ([c + " " * (w - _width(c)) for c, w in zip(row, self._widths, strict=True)] for row in rows)
        return ["  ".join(row).rstrip() for row in padded]


def _with_alternatives(record: Record) -> Iterator[Record]:
    yield record
    for other in record.get("alternatives") or ():
        yield {**record, **other}


def _cell(value: Any, terminal: bool) -> str:
    value = clean(value)
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
    if not isinstance(text, str):
        text = json.dumps(text, ensure_ascii=False)
    text = re.sub(r"[\t\r\n\v\f\x85\u2028\u2029]", " ", text)
    return printable(text) if terminal else text


def _width(text: str) -> int:
    """Width on a terminal: East Asian wide characters take two columns, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
