"""The folder of an evaluation: `metrics.json`, `examples.jsonl`, `predictions.json` and `report.html`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip.eval.base import Measure, Report, Row
from blip.eval.html import page
from blip.eval.prediction_files import PREDICTIONS
from blip.eval.statistics import Difference, interval
from blip.io.atomic import atomic_path
from blip.io.disk import writing
from blip.io.formats import require_folder
from blip.io.records import clean
from blip_lite.errors import UsageError
from blip_lite.text_files import parse_json, read_text

METRICS, EXAMPLES, PAGE = "metrics.json", "examples.jsonl", "report.html"
NEGLIGIBLE = 1e-12  # left over by the scorers' guards against 0/0


@dataclass(frozen=True, kw_only=True)
class About:
    """Description of an evaluation: the head of `metrics.json`."""

    task: str
    data: str
    model: str
    n: int
    split: str | None = None
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config_sha256(self) -> str:
        """Hash of task, data and settings."""
        text = json.dumps({**self.settings, "task": self.task, "data": self.data}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def summary(
    about: About, report: Report, draws: int, seed: int, compared: Mapping[str, Difference] | None = None
) -> dict[str, Any]:
    """Return the content of `metrics.json`: every metric with its interval, unit and chance level."""
    values: dict[str, Any] = {
        "schema": "metrics/1",
        "task": about.task,
        "data": about.data,
        "split": about.split,
        "n": about.n,
        "model": about.model,
        "metrics": {name: _metric(m, draws, seed) for name, m in report.measures.items()},
        "skipped": dict(report.skipped) or None,
        "failed": len(report.failed) or None,
        **report.coverage.counts(),
        "compared": {name: d.to_dict() for name, d in (compared or {}).items()} or None,
        "seconds": about.seconds,
        "config_sha256": about.config_sha256,
        "settings": dict(about.settings) or None,
    }
    content: dict[str, Any] = clean({k: v for k, v in values.items() if v is not None})
    return content


def _metric(measure: Measure, draws: int, seed: int) -> dict[str, Any]:
    low, high = interval(measure, draws, seed) or (None, None)
    n = None if measure.stats is None else len(measure.stats)
    values = {
        "value": 0.0 if abs(measure.value) < NEGLIGIBLE else measure.value,
        "low": low,
        "high": high,
        "unit": measure.unit or None,
        "chance": measure.chance,
        "n": n,
    }
    return {k: v for k, v in values.items() if v is not None}


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Check the folder of an evaluation before hours of work depend on it; nothing is created.

    Raises UsageError if it holds an evaluation, or if its name has the ending of a file; EnvironmentProblem if it
    cannot be written.
    """
    require_folder(folder)
    if (folder / METRICS).exists() and not overwrite:
        raise UsageError(f"{folder} holds an evaluation; choose another folder or use --overwrite")
    require_writable(folder)


def require_writable(folder: Path) -> None:
    """Raise EnvironmentProblem if no file can be written in a folder, or if the folder cannot be created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    with writing(folder), tempfile.TemporaryFile(dir=existing):
        pass


def write(folder: Path, report: Report, metrics: Mapping[str, Any]) -> None:
    """Write the four files, all or none; `metrics` comes from `summary`."""
    lines = [json.dumps(clean({"schema": "eval-example/1", **row}), ensure_ascii=False) for row in report.rows]
    lines += [json.dumps(_failed(text), ensure_ascii=False) for text in report.failed]
    contents = {
        METRICS: json.dumps(metrics, indent=1, ensure_ascii=False) + "\n",
        EXAMPLES: "".join(line + "\n" for line in lines),
        PREDICTIONS: json.dumps(clean(report.predictions), ensure_ascii=False) + "\n",
        PAGE: page(report, metrics),
    }
    with contextlib.ExitStack() as stack:  # all are complete before the first is renamed, the metrics last
        for name, content in contents.items():
            stack.enter_context(atomic_path(folder / name)).write_bytes(content.encode("utf-8", "replace"))


def _failed(text: str) -> Row:
    where, _, reason = text.partition(": ")
    return {"schema": "eval-example/1", "key": where, "error": {"type": "BadRecord", "reason": reason}}


def read_examples(folder: Path, task: str | None = None) -> list[Row]:
    """Read the rows that an evaluation wrote. Raises UsageError, also if it evaluated another task."""
    path = folder / EXAMPLES
    try:
        rows = [parse_json(line) for line in read_text(path).splitlines()]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; must be a folder written by 'blip eval -o'") from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON lines ({error})") from error
    if not all(isinstance(row, dict) and "key" in row for row in rows):
        raise UsageError(f"{path}: must be examples written by 'blip eval -o'")
    tasks = {str(row["task"]) for row in rows if "task" in row}
    if task is not None and tasks and task not in tasks:
        raise UsageError(f"{folder} evaluates {', '.join(sorted(tasks))}, not {task}")
    return rows
