"""Reading rows as a task needs them: with its columns, names and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blip.io import readers
from blip.io.columns import Columns, Located, ReadResult
from blip.io.row import Position
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, ConfigError

SampleCheck = Callable[[Sample], object]
VERSION = 2  # raise it if rows are read differently, so that indexes are built again


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Reads rows of files. names: fields that are copied from another column; check: raises `BadRecord`."""

    columns: Columns
    names: Mapping[str, str]
    check: SampleCheck | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides which rows are good. Image folders do not: images are located, not opened."""
        columns = self.columns
        named = {"image": columns.image, "text": columns.text, "key": columns.key, "need_text": columns.need_text}
        return {"version": VERSION, **named, "names": dict(self.names), "check": self._check_name()}

    def rows(self, name: str) -> Iterator[Located]:
        """Yield the rows of a file or folder with their positions. Raises `UsageError`."""
        for position, result in readers.located(name, self.columns):
            yield position, self._complete(result)

    def read(self, file: Path, position: Position) -> Sample:
        """Return the row at a position that `rows` has yielded. Raises `BadRecord`, `UsageError` for a changed file."""
        result = readers.read_at(file, position, self.columns)
        if isinstance(result, BadRecord):
            raise result
        return self._rename(result)

    def _complete(self, result: ReadResult) -> ReadResult:
        if isinstance(result, BadRecord):
            return result
        result = self._rename(result)
        try:
            if self.check is not None:
                self.check(result)
        except BadRecord as error:
            return error
        return result

    def _rename(self, sample: Sample) -> Sample:
        new = {name: sample.fields.get(column) for name, column in self.names.items()}
        return replace(sample, fields={**sample.fields, **new}) if new else sample

    def _check_name(self) -> str | None:
        if self.check is None:
            return None
        name = f"{getattr(self.check, '__module__', '')}:{getattr(self.check, '__qualname__', '<')}"
        if "<" in name:
            raise ConfigError("check: must be a function of a module, since an index remembers its name")
        return name
