"""One row of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `where` is file and row, `values` maps columns to values; a bad row has a `problem` instead."""

    where: str
    values: dict[str, Any]
    problem: str | None = None
