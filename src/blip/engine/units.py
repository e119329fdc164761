"""Units of work: a shard of a data set each. Listing them reads no image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A tar, or some consecutive rows of a table or folder."""

    name: str  # stem of its output file, unique in an output folder
    source: str  # file or folder as named by the user
    start: int = 0  # first row, from 0
    stop: int | None = None  # row after the last; None: the end
    size: int | None = None  # of the file, in bytes; None for a folder
