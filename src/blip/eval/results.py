"""The folder of an evaluation: `metrics.json`, `examples.jsonl`, `predictions.json` and `report.html`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip.eval.base import Measure, Report, Row
from blip.eval.html import page
from blip.eval.statistics import Difference, interval
from blip.io.atomic import write_text
from blip.io.records import clean
from blip_lite.errors import UsageError

METRICS, EXAMPLES, PREDICTIONS, PAGE = "metrics.json", "examples.jsonl", "predictions.json", "report.html"


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
        "value": measure.value,
        "low": low,
        "high": high,
        "unit": measure.unit or None,
        "chance": measure.chance,
        "n": n,
    }
    return {k: v for k, v in values.items() if v is not None}


def write(folder: Path, report: Report, metrics: Mapping[str, Any]) -> None:
    """Write the four files; `metrics` comes from `summary`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(clean({"schema": "eval-example/1", **row}), ensure_ascii=False) for row in report.rows]
    lines += [json.dumps(_failed(text), ensure_ascii=False) for text in report.failed]
    write_text(folder / EXAMPLES, "".join(line + "\n" for line in lines))
    write_text(folder / PREDICTIONS, json.dumps(clean(report.predictions), ensure_ascii=False) + "\n")
    write_text(folder / PAGE, page(report, metrics))
    write_text(folder / METRICS, json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")


def _failed(text: str) -> Row:
    where, _, reason = text.partition(": ")
    return {"schema": "eval-example/1", "key": where, "error": {"type": "BadRecord", "reason": reason}}


def read_examples(folder: Path) -> list[Row]:
    """Read the rows that an evaluation wrote. Raises UsageError."""
    path = folder / EXAMPLES
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; must be a folder written by 'blip eval -o'") from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON lines ({error})") from error
