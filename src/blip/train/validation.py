"""Evaluations during a run: scores, examples, the best step, and whether the model forgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch

from blip.data.loader import SampleRef, sample_seed
from blip.data.split import AUTO, count_photos
from blip.eval.base import Report, Row, measure
from blip.model.blip import BlipModel
from blip.tasks.base import Best, Task, to_device
from blip.train.config import TrainConfig
from blip.train.drift import Drift, can_measure
from blip.train.log import TrainLog
from blip_lite.errors import ConfigError

EXAMPLES = 3  # predictions shown at each evaluation
MAX_REFERENCES = 2  # true texts beside each
FEW_PHOTOS = 50  # with fewer held-out photos the loss selects the best step: scores of so few are mostly noise
LOSS_SAMPLES, LOSS_BATCH = 256, 16
# drift from which a run warns, by family: scores on other photos are about a tenth lower. Measured for captions,
# extrapolated for vqa, chosen for retrieval.
FORGOTTEN = {"caption": 0.05, "pretrain": 0.05, "vqa": 0.4, "retrieval": 0.3}


@dataclass
class Validation:
    """Scores of a run. Everything that survives a restart is in `state`."""

    task: Task
    config: TrainConfig
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    start: dict[str, float] = field(default_factory=dict)  # of the starting model
    best: tuple[float, int] | None = None  # score and step
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_drift: float = 0.0
    since_best: int = 0  # evaluations since then
    _drift: Drift | None = None
    _stored_drift: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        config, setup = self.config, self.task.setup
        self.selection: Best | None = self.task.best if setup.has_validation else None
        if self.selection is not None and setup.held_out is not None and count_photos(setup.held_out) < FEW_PHOTOS:
            self.selection = Best(("loss",))
        if config.patience is not None and self.selection is None and not self._can_decline:
            raise ConfigError(f"patience {config.patience}: needs a validation score; give val data and best.keys")

    @property
    def _can_decline(self) -> bool:
        """Whether validation was left to the program, which found too few photos for it."""
        return getattr(self.task, "val", None) == AUTO

    @property
    def evaluates_start(self) -> bool:
        return self.config.eval_start and self.task.setup.has_validation

    @property
    def is_stalled(self) -> bool:
        """Whether `patience` evaluations in a row have brought no improvement."""
        patience = self.config.patience
        return self.selection is not None and patience is not None and self.since_best >= patience

    def evaluate(self, model: BlipModel, step: int, log: TrainLog) -> None:
        """Evaluate and compare with the best step; strictly greater wins."""
        setup = self.task.setup
        report = setup.evaluate(model, self.config.eval_limit)
        if setup.held_out is not None or (self.selection is not None and "loss" in self.selection.keys):
            loss = measure([self._loss(model)])
            report = replace(report, measures={"loss": loss, **report.measures})
        drift = self._measure_drift(model, step)
        self.record(report, step, log, drift)

    def record(self, report: Report, step: int, log: TrainLog, drift: float | None = None) -> None:
        """Log an evaluation and compare it with the best one."""
        self.metrics = report.metrics
        _show(report, step, log, drift)
        if not report.metrics:
            return
        values = {f"val_{name}": value for name, value in report.metrics.items()}
        log.row(step, values if drift is None else {**values, "drift": drift})
        if step == 0:
            self.start = report.metrics
        if self.selection is None:
            return
        score = sum(_score(report.metrics, key) for key in self.selection.keys)
        self.since_best += 1
        if self.best is None or score > self.best[0]:
            self.best, self.since_best = (score, step), 0
            self.best_metrics, self.best_drift = report.metrics, drift or 0.0

    @torch.no_grad()
    def _loss(self, model: BlipModel) -> float:
        """Return the mean loss of the validation samples; those of few photos are read with several of their texts."""
        data, device = self.task.dataset(self.task.setup.validation_source), model.vision.cls_token.device
        count = min(len(data), LOSS_SAMPLES)
        passes = max(1, min(5, LOSS_SAMPLES // (2 * count)))
        total = 0.0
        for p, start in product(range(passes), range(0, count, LOSS_BATCH)):  # no image twice in a batch
            rows = range(start, min(start + LOSS_BATCH, count))
            samples = [data[SampleRef(i, 0, sample_seed(self.config.seed, p, i))] for i in rows]
            batch = to_device(self.task.collate(samples), device)
            total += float(self.task.validation_loss(model, batch)) * len(samples)
        return total / (passes * count)

    def _measure_drift(self, model: BlipModel, step: int) -> float | None:
        if not self.evaluates_start or not can_measure(self.task):
            return None
        if self._drift is None:
            if step and self._stored_drift is None:  # the run started without
                return None
            self._drift = Drift(self.task, model, **(self._stored_drift or {}))
        return self._drift.measure(model)

    def conclusion(self) -> tuple[str, ...]:
        """Return the closing lines of a run: what was gained, and warnings."""
        if self.best is None or not self.start:
            return ()
        step = self.best[1]
        if step == 0:
            return (
                "warning: no step was better than the start on the evaluated photos; final/ holds the starting "
                "weights. More photos, or other texts, may help",
            )
        changes = ", ".join(
            f"{name} {self.start[name]:.4g} to {value:.4g}"
            for name, value in self.best_metrics.items()
            if name in ("loss", *(self.task.best.keys if self.task.best else ()))
        )
        lines = [f"best step {step}: {changes}"]
        usual = FORGOTTEN.get(self.task.setup.family, float("inf"))
        if self.best_drift > usual:
            lines.append(
                f"warning: the model has changed a lot on photos unlike yours (drift {self.best_drift:.2f} on bundled "
                f"photos; up to {usual} is usual); compare it on other photos, or train less: --lr, --steps, "
                "--start-share"
            )
        return tuple(lines)

    def state(self) -> dict[str, Any]:
        """Return the values to save."""
        drift = self._stored_drift if self._drift is None else {"rows": self._drift.rows, "start": self._drift.start}
        names = ("metrics", "start", "best", "best_metrics", "best_drift", "since_best")
        return {**{name: getattr(self, name) for name in names}, "drift": drift}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over saved values."""
        for name in ("metrics", "start", "best_metrics", "best_drift", "since_best"):
            setattr(self, name, state[name])
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self._stored_drift = state["drift"]


def _show(report: Report, step: int, log: TrainLog, drift: float | None) -> None:
    values = report.metrics if drift is None else {**report.metrics, "drift": drift}
    text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
    if report.rows or text:
        when = f"step {step}" if step else "start"
        log.note(f"{when} evaluated: {text or 'training samples only; give --val for scores'}")
    for row in report.rows[:EXAMPLES]:
        log.note(f"  {_example(row)}")


def _example(row: Row) -> str:
    """Return one line with the prediction of a row beside the truth."""
    prompt = row.get("question", row.get("sentence", row.get("text", "")))
    prediction = row.get("prediction", f"rank {row.get('rank')}")
    references = list(dict.fromkeys(str(text) for text in row.get("references", ())))
    more = f" (+{len(references) - MAX_REFERENCES})" if len(references) > MAX_REFERENCES else ""
    truth = f"  [true: {' | '.join(references[:MAX_REFERENCES])}{more}]" if references else ""
    return f"{row['key']}: {prompt + ' ' if prompt else ''}{prediction}{truth}"


def _score(metrics: Mapping[str, float], key: str) -> float:
    if key == "loss":
        return -metrics["loss"]
    if key not in metrics:
        raise ConfigError(f"best.keys '{key}'; must be one of {', '.join(metrics)}")
    return metrics[key]
