"""The good rows of a source, and the columns that are written for each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from blip.io import readers
from blip.io.columns import TEXT_COLUMNS, Columns
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UsageError

OnBad = Callable[[BadRecord], None]


class Source:
    """The good rows of a source; may be iterated repeatedly. Bad rows are reported once."""

    def __init__(self, names: Sequence[str], columns: Columns, on_bad: OnBad | None) -> None:
        self._names, self._columns, self._on_bad = names, columns, on_bad
        self._reported: set[str] = set()
        self.rows = 0

    @property
    def skipped(self) -> int:
        return len(self._reported)

    def __iter__(self) -> Iterator[tuple[int, Sample]]:
        """Yield rows with a running number."""
        self.rows = number = 0
        for name in self._names:
            for result in readers.read(name, self._columns):
                if isinstance(result, BadRecord):
                    self.skip(result)
                else:
                    self.rows += 1
                    yield number, result
                    number += 1
        if not number:
            raise UsageError(f"{', '.join(self._names[:3])}: holds no samples")

    def skip(self, error: BadRecord, *, counted: bool = False) -> None:
        """Leave a row out; `counted` if it was yielded as good."""
        self.rows -= counted
        if self._on_bad is None:
            raise error
        if error.where not in self._reported:
            self._reported.add(error.where)
            self._on_bad(error)

    def key_of(self, sample: Sample) -> str | None:
        """Return the row's own key, else the image's path; None if it has only the number of the row."""
        key = sample.fields.get("key") if self._columns.key is None else None
        if key is not None:
            return str(key)
        return (
            None if sample.key == os.path.basename(sample.where) and re.search(r":\d+$", sample.where) else sample.key
        )


def other_columns(sample: Sample) -> dict[str, Any]:
    """Return the other columns under names that readers do not use for the image or the text."""
    used = ("image", "images", *TEXT_COLUMNS)
    pair = sample.fields.get("images")
    written = ("key", "images") if isinstance(pair, list) and len(pair) == len(sample.images) else ("key",)
    return {f"other_{k}" if k in used else k: v for k, v in sample.fields.items() if k not in written}


def key_column(key: str | None) -> dict[str, Any]:
    return {} if key is None else {"key": key}


def captions_column(sample: Sample) -> dict[str, Any]:
    return {"captions": list(sample.texts)} if sample.texts else {}


def json_text(values: dict[str, Any], where: str) -> str:
    """Return a row as JSON. Raises BadRecord, with the row's place, for a value that JSON does not have."""
    try:
        return json.dumps(values, ensure_ascii=False)
    except TypeError as error:  # Parquet has more types of values
        raise BadRecord(where, f"a column cannot be written as JSON ({error})") from error
