"""Score files: rows are collected as Arrow columns, and written with the counts that a summary needs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip.capfilt.items import Item
from blip.capfilt.record import COLUMNS, HUMAN, SCHEMA, WEB, arrow_schema, require_pyarrow
from blip.engine.work import Counts
from blip_lite.errors import UsageError
from blip_lite.text_files import parse_json

if TYPE_CHECKING:
    from blip.capfilt.texts import ScoredText

ROWS = 4096  # as Python values; then they become Arrow columns, of about 400 bytes per row


class ScoreFile:
    """The rows of a unit in memory, and their counts. copy_columns: names of copied columns."""

    def __init__(self, copy_columns: Sequence[str]) -> None:
        self.schema, self.counts = arrow_schema(), Counts()
        self.rows: list[dict[str, Any]] = []
        self.tables: list[Any] = []
        self.copies: dict[str, list[Any]] = {name: [] for name in copy_columns}

    def add(self, item: Item, columns: dict[str, Any], texts: Sequence[ScoredText]) -> None:
        """Add the rows of an item, whose image has these columns: one per text, or a single row without text."""
        common = {name: _clean(value) for name, value in {**item.place, **columns}.items()}
        if item.error is not None:
            self._add({**common, "error": _clean(item.error)}, item.copies[0])
        elif item.is_human:
            for i, text in enumerate(item.texts):
                self._add({**common, "kind": HUMAN, "index": i, "text": _clean(text)}, item.copies[i])
        for scored in texts:
            row = {**common, **{name: _clean(getattr(scored, name)) for name in _TEXT_COLUMNS}}
            self._add(row, item.copies[scored.index if scored.kind == WEB else 0])

    def _add(self, row: dict[str, Any], copies: Sequence[Any]) -> None:
        self.rows.append(row)
        for values, value in zip(self.copies.values(), copies, strict=True):
            values.append(value)
        if len(self.rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        self.tables.append(require_pyarrow().Table.from_pylist(self.rows, self.schema))
        self.rows = []

    def write(self, path: Path) -> None:
        """Write all rows, with the schema and the counts in the metadata of the file."""
        arrow = require_pyarrow()
        self._flush()
        table = arrow.concat_tables(self.tables)
        for name, values in self.copies.items():
            table = table.append_column(name, _array(arrow, values))
        counts = json.dumps(self.counts.to_dict(), ensure_ascii=False)
        table = table.replace_schema_metadata({"schema": SCHEMA, "counts": counts})
        importlib.import_module("pyarrow.parquet").write_table(table.combine_chunks(), path, compression="zstd")


_TEXT_COLUMNS = ("kind", "index", "text", "itm", "itc", "logprob", "tokens")


def check_copy_columns(names: Sequence[str]) -> None:
    """Raise `UsageError` for a copied column with the name of one of the record, and for one given twice."""
    for i, name in enumerate(names):
        if name in COLUMNS:
            raise UsageError(f"copied column '{name}'; score files have a column of this name")
        if name in names[:i]:
            raise UsageError(f"copied column '{name}' is given twice")


def read_counts(path: Path) -> Counts:
    """Return the counts of a score file. Raises `UsageError` for any other file."""
    require_pyarrow()
    try:
        metadata = importlib.import_module("pyarrow.parquet").read_metadata(path).metadata or {}
        return Counts.from_dict(parse_json(metadata[b"counts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not a score file; remove it and run again") from error


def _clean(value: Any) -> Any:
    """Return a value as Arrow can hold it: texts without lone surrogates."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _array(arrow: Any, values: Sequence[Any]) -> Any:
    """Return a copied column with the type of its values; values of several types are JSON text."""
    try:
        return arrow.array(list(map(_clean, values)))
    except (arrow.ArrowException, OverflowError):
        return arrow.array([None if v is None else _clean(v if isinstance(v, str) else json.dumps(v)) for v in values])
