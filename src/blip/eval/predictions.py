"""Predictions of any program: the fields that each task accepts, and their match with the rows of the data.

The official tools score the rows that have a prediction and refuse ids that are not in the data (COCO and VQA), or stop
if one is missing (NLVR2). Here every difference is an error unless it is allowed; then only the rows that have a
prediction are scored, and the differences are counted in the report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blip_lite.errors import BadRecord, UsageError

Row = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """A field of a prediction: its accepted names, the first of which is kept, and the parser of its values.

    parse: returns the value, or raises ValueError with the rule. optional: a prediction may lack the field.
    """

    names: tuple[str, ...]
    parse: Callable[[object], Any]
    optional: bool = False

    @property
    def name(self) -> str:
        return self.names[0]


def identifier(value: object) -> int | str:
    """Parse an id: a text or an integer, also one that a table program stored as 7.0."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return value
    raise ValueError("must be a text or an integer")


def text(value: object) -> str:
    """Parse a text; a list of one text is accepted, as the reference caption scorer's form."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    value = value.get("caption") if isinstance(value, Mapping) else value
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def answer(value: object) -> str:
    """Parse an answer: a text or a number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return text(value)


def truth(value: object) -> bool:
    """Parse true or false, in any case."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ValueError("must be true or false")


def number(value: object) -> float:
    """Parse a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")
    try:
        result = float(value)
    except ValueError as error:
        raise ValueError("must be a number") from error
    if not math.isfinite(result):
        raise ValueError("must be a finite number")
    return result


def rank(value: object) -> int:
    """Parse a rank: an integer from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("must be an integer of at least 1")
    return value


def top(value: object) -> list[list[Any]]:
    """Parse the best items of a query: pairs of name and score, best first."""
    if not isinstance(value, list) or not all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        raise ValueError("must be a list of pairs of name and score, best first")
    return [[str(identifier(name)), number(score)] for name, score in value]


@dataclass(frozen=True)
class Form:
    """Fields of a task's predictions. one_of: names of optional fields of which a prediction needs at least one."""

    fields: tuple[Field, ...]
    one_of: tuple[str, ...] = ()

    def parse(self, rows: Iterable[object], where: str = "predictions") -> list[Row]:
        """Return the rows under the names and types of the task. Raises BadRecord with the number of the row."""
        return [self.parse_row(row, f"{where}:{n}") for n, row in enumerate(rows, 1)]

    def accepts(self, names: Iterable[str]) -> bool:
        """Whether rows with these fields are predictions."""
        present = set(names)
        return all(field.optional or present & set(field.names) for field in self.fields)

    def parse_row(self, row: object, where: str) -> Row:
        """Return one row as `parse` does."""
        if not isinstance(row, Mapping):
            raise BadRecord(where, f"must be an object with {self.describe()}, not {type(row).__name__}")
        result = dict(row)
        for field in self.fields:
            name = next((name for name in field.names if row.get(name) is not None), None)
            if name is None:
                if not field.optional:
                    raise BadRecord(where, f"has the fields {_listed(row)}; a prediction needs {self.describe()}")
                continue
            try:
                result[field.name] = field.parse(row[name])
            except ValueError as error:
                raise BadRecord(where, f"field '{name}' is {row[name]!r:.60}; {error}") from error
        if self.one_of and not any(result.get(name) is not None for name in self.one_of):
            raise BadRecord(where, f"has the fields {_listed(row)}; a prediction needs {self.describe()}")
        return result

    def describe(self) -> str:
        """Describe the required fields with their other names: "'image_id' (or 'id') and 'caption'"."""
        parts = [_names(field.names) for field in self.fields if not field.optional]
        parts += [_names(self.one_of)] if self.one_of else []
        return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _names(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{quoted[0]} (or {', '.join(quoted[1:])})"


def _listed(row: Mapping[Any, Any]) -> str:
    return ", ".join(f"'{name}'" for name in row) or "none"


CAPTION = Form(
    (
        Field(("image_id", "img_id", "id", "image", "key", "file_name"), identifier),
        Field(("caption", "text", "prediction"), text),
    )
)
VQA = Form((Field(("question_id", "id", "key"), identifier), Field(("answer", "text", "prediction"), answer)))
NLVR = Form(
    (
        Field(("identifier", "id", "key"), identifier),
        Field(("prediction", "label", "answer"), truth),
        Field(("score",), number, optional=True),
    )
)
RATINGS = Form(
    (
        Field(("key", "image"), identifier),
        Field(("text", "caption"), text),
        Field(("itm",), number, optional=True),
        Field(("itc",), number, optional=True),
    ),
    one_of=("itm", "itc"),
)


RANKING = Form(
    (
        Field(("direction",), text),
        Field(("query",), identifier),
        Field(("top",), top, optional=True),
        Field(("rank",), rank, optional=True),
    ),
    one_of=("top", "rank"),
)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Differences between the ids of the data and of the predictions.

    missing: rows of the data without a prediction. surplus: predictions whose id is not in the data. repeated: ids with
    several predictions, of which the first counts.
    """

    total: int = 0
    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of missing, surplus and repeated ids, without zeros."""
        groups = {"missing": self.missing, "surplus": self.surplus, "repeated": self.repeated}
        return {name: len(ids) for name, ids in groups.items() if ids}

    def check(self, *, allow_missing: bool) -> None:
        """Raise UsageError if there are differences and they are not allowed."""
        problem = self.describe()
        if problem and not allow_missing:
            raise UsageError(f"{problem}; --allow-missing scores the others")

    def describe(self) -> str:
        """Return the differences in one line, empty if there are none."""
        total = f" of {_ids(self.total)}"
        groups = (
            (self.missing, total, "in the data", "has", "have", "no prediction"),
            (self.surplus, "", "in the predictions", "is", "are", "not in the data"),
            (self.repeated, "", "in the predictions", "occurs", "occur", "more than once"),
        )
        return "; ".join(
            f"{len(ids):,}{of or _noun(ids)} {place} {verb if len(ids) == 1 else verbs} {problem}{_first(ids)}"
            for ids, of, place, verb, verbs, problem in groups
            if ids
        )


def _noun(ids: Sequence[str]) -> str:
    return " id" if len(ids) == 1 else " ids"


def _ids(count: int) -> str:
    return f"{count:,} id{'' if count == 1 else 's'}"


def _first(ids: Sequence[str]) -> str:
    return f" ('{ids[0]}'{', ...' if len(ids) > 1 else ''})"


@dataclass(frozen=True)
class Matched:
    """Predictions by the id of the data, and the differences."""

    rows: Mapping[str, Row]
    coverage: Coverage


def match(
    ids: Sequence[str], predictions: Iterable[Row], id_of: Callable[[Row], str], *, allow_missing: bool = False
) -> Matched:
    """Assign predictions to the ids of the data.

    Raises UsageError for missing, surplus and repeated ids unless allow_missing, and if no id matches.
    """
    known = dict.fromkeys(ids)
    matched: dict[str, Row] = {}
    counts: Counter[str] = Counter()
    for row in predictions:
        name = id_of(row)
        counts[name] += 1
        if name in known:
            matched.setdefault(name, row)
    coverage = Coverage(
        total=len(known),
        missing=tuple(name for name in known if name not in matched),
        surplus=tuple(name for name in counts if name not in known),
        repeated=tuple(name for name, count in counts.items() if count > 1),
    )
    if not matched:
        example = f"; the data have '{ids[0]}', the predictions '{next(iter(counts))}'" if ids and counts else ""
        raise UsageError(f"no prediction matches a row of the data{example}")
    coverage.check(allow_missing=allow_missing)
    return Matched(matched, coverage)
