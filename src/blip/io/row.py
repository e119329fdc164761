"""One row of a table, and the place of a row in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Position(NamedTuple):
    """Place of a row in its file, from which it can be read alone.

    Text tables and tars: `size` bytes from byte `offset` on. Parquet: row `size` of row group `offset`. number: of the
    row in a table, from 1, which messages and keys name; 0 in a tar.
    """

    offset: int
    size: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `where` is file and row, `values` maps columns to values; a bad row has a `problem` instead.

    position: None if the row cannot be read alone.
    """

    where: str
    values: dict[str, Any]
    problem: str | None = None
    position: Position | None = None
