"""Files of predictions: those of the official tools and of `blip`, read for scoring, and submissions to servers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blip.eval.predictions import Form, Row, truth
from blip.io import table_reader
from blip.io.atomic import write_text
from blip.io.formats import require_ending
from blip_lite.errors import BadRecord, UsageError
from blip_lite.text_files import parse_json, read_text

PREDICTIONS = "predictions.json"  # in the folder of an evaluation
_TABLES = (".csv", ".tsv", ".parquet")
# keys of an object that contains the list
_WRAPPERS = ("annotations", "predictions", "results", "captions", "data", "images")
_SUBMISSION_FIELDS = {
    "caption": ("image_id", "caption"),
    "nocaps": ("image_id", "caption"),
    "vqa": ("question_id", "answer"),
    "nlvr": ("identifier", "prediction"),
}


def read_predictions(path: Path, form: Form) -> list[Row]:
    """Read predictions under the names of `form`; error records of `blip caption` and `blip ask` are left out.

    Formats: a JSON list (COCO and VQA results, `predictions.json`, also inside an object), JSON lines (records of
    `blip`), an object of ids (the reference caption scorer's form), CSV, TSV and Parquet with a header, NLVR2's CSV
    `identifier,true` without one, and the folder of an evaluation. Raises UsageError or BadRecord with file and row.
    """
    path = path / PREDICTIONS if path.is_dir() else path
    is_table = path.suffix.lower() in _TABLES
    rows = list(_table_rows(path, form)) if is_table else _json_rows(path, form)
    predictions = [form.parse_row(row, where) for where, row in rows if not _is_error(row)]
    if not predictions:
        raise UsageError(f"{path}: holds no predictions; a prediction has {form.describe()}")
    return predictions


def _is_error(row: Any) -> bool:
    return isinstance(row, dict) and "error" in row


def _table_rows(path: Path, form: Form) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() == ".csv":
        pairs = _pairs(path)
        if pairs and form.accepts(("identifier", "prediction")):
            yield from ((f"{path}:{n}", {"identifier": a, "prediction": b}) for n, a, b in pairs)
            return
    for row in table_reader.rows(path, None):
        if row.problem is not None:
            raise BadRecord(row.where, row.problem)
        yield row.where, row.values


def _pairs(path: Path) -> list[tuple[int, str, str]]:
    """Return line, id and value of a CSV without a header, as NLVR2's scorer reads it; else an empty list."""
    lines = csv.reader(io.StringIO(_read(path)))
    try:
        rows = [(lines.line_num, cells) for cells in lines if cells]
    except csv.Error as error:
        raise UsageError(f"{path}:{lines.line_num}: {error}") from error
    if not rows or not all(len(cells) == 2 for _, cells in rows):
        return []
    try:
        truth(rows[0][1][1])
    except ValueError:
        return []
    return [(line, cells[0].strip().removesuffix(".png"), cells[1]) for line, cells in rows]


def _json_rows(path: Path, form: Form) -> list[tuple[str, Any]]:
    content = _read(path)
    try:
        value = parse_json(content, unique=True)
    except ValueError as error:
        lines = [(f"{path}:{n}", line) for n, line in enumerate(content.split("\n"), 1) if line.strip()]
        if len(lines) == 1 or (lines and not _is_json(lines[0][1])):
            raise UsageError(f"{path}: not a JSON list, JSON lines or a table ({error})") from error
        return [(where, _parse_line(line, where)) for where, line in lines]
    if isinstance(value, dict):
        value = _unwrap(value, form)
    if not isinstance(value, list):
        raise UsageError(f"{path}: must be a list of objects with {form.describe()}")
    return [(f"{path}:{n}", row) for n, row in enumerate(value, 1)]


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _parse_line(line: str, where: str) -> Any:
    try:
        return parse_json(line, unique=True)
    except ValueError as error:
        raise UsageError(f"{where}: not valid JSON ({error})") from error


def _unwrap(value: dict[str, Any], form: Form) -> list[Any]:
    """Return the list inside an object, the one row that the object is, or a row for each of its ids."""
    if form.accepts(value) or _is_error(value):
        return [value]
    inner = next((value[name] for name in _WRAPPERS if isinstance(value.get(name), list)), None)
    if inner is not None:
        return list(inner)
    required = [field.name for field in form.fields if not field.optional]
    if len(required) != 2 or form.one_of:
        return [value]
    return [{required[0]: name, required[1]: item} for name, item in value.items()]


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        if path.read_bytes()[:2] == b"\x1f\x8b":
            raise UsageError(f"{path}: compressed by gzip; unpack it first") from error
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error


def check_submission(path: Path, task: str) -> None:
    """Raise UsageError if the task has no evaluation server, or if the file's ending is not that of its format."""
    if task not in _SUBMISSION_FIELDS:
        raise UsageError(f"--submission: no format for {task}; must be one of {', '.join(_SUBMISSION_FIELDS)}")
    require_ending(path, [".csv" if task == "nlvr" else ".json"], "--submission")


def write_submission(path: Path, task: str, predictions: Sequence[Row]) -> None:
    """Write predictions in the format of the task's evaluation server: JSON for captions and VQA, CSV for NLVR2."""
    check_submission(path, task)
    rows = [{name: p[name] for name in _SUBMISSION_FIELDS[task]} for p in predictions]
    if task == "nlvr":
        content = io.StringIO()
        csv.writer(content, lineterminator="\n").writerows(row.values() for row in rows)
        write_text(path, content.getvalue())
    else:
        write_text(path, json.dumps(rows, ensure_ascii=False) + "\n")
