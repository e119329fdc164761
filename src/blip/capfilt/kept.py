"""The kept images in order, with their texts, as Arrow tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from blip.capfilt.database import Database
from blip.capfilt.record import COLUMNS
from blip.capfilt.rules import Score

ROWS = 100_000  # of score files that are read at a time
_TEXT_COLUMNS = ("kind", "index", "text", "itm", "itc", "logprob", "tokens", "error")
_LISTS = {"captions": "text", "kinds": "kind"}


def kept_images(database: Database, score: Score) -> Iterator[Any]:  # pyarrow has no types
    """Yield the kept images in the order of their score files and rows.

    Columns: those of an image in the score files, then its texts as the lists `captions`, `kinds` and `scores` (null
    for human texts), then the copied columns of the user, with the values of
    the first text.
    """
    per_image = [name for name in COLUMNS if name not in _TEXT_COLUMNS]
    copied = [name for name in database.columns if name not in COLUMNS]
    columns = [
        *(f'any_value("{name}") AS "{name}"' for name in per_image),
        *(f"list({column} ORDER BY number) AS {name}" for name, column in (_LISTS | {"scores": score}).items()),
        *(f"first({identifier(name)} ORDER BY number) AS {identifier(name)}" for name in copied),
    ]
    for first, last in _ranges(database):
        yield database.arrow(
            f"SELECT {', '.join(columns)} FROM (SELECT *, file_index AS file, file_row_number AS number "
            f"FROM {database.scores(first, last)}) scores "
            f"JOIN (SELECT file - {first} AS file, row AS number FROM kept WHERE file BETWEEN {first} AND {last}) kept "
            "USING (file, number) GROUP BY file, key ORDER BY file, min(number)"
        )


def _ranges(database: Database) -> Iterator[tuple[int, int]]:
    """Yield the first and last number of consecutive score files with about `ROWS` rows, or one file with more."""
    first = rows = 0
    for number, size in enumerate(database.sizes()):
        if rows and rows + size > ROWS:
            yield first, number - 1
            first, rows = number, 0
        rows += size
    yield first, len(database.files) - 1


def identifier(name: str) -> str:
    """Return a column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
