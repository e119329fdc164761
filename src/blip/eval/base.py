"""Interface of evaluations: metrics that can be resampled, a row per example, predictions in the task's format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blip.eval.predictions import Coverage, Form
from blip.eval.predictions import Row as Row

if TYPE_CHECKING:
    from blip.data.sources import Reading, Source, Spec
    from blip.eval.photos import Photos
    from blip.io.samples import ImageRef
    from blip.model.blip import BlipModel
    from blip.tokenizer import Tokenizer

Stats = NDArray[np.float64]
Predictions = Sequence[Mapping[str, Any]]
Tick = Callable[[int, int], None]  # (number of examples done, total)


def mean(stats: Stats) -> float:
    """Mean of the first column."""
    return float(stats[:, 0].mean())


def percentage(stats: Stats) -> float:
    """Sum of the first column in percent of the sum of the second (hits and queries of an image)."""
    return 100.0 * float(stats[:, 0].sum() / max(stats[:, 1].sum(), 1e-12))


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric; `of` computes its value from statistics [n, s], one row per unit of resampling.

    stats None: a metric that cannot be resampled. chance: the value that guessing reaches, if known.
    """

    value: float
    stats: Stats | None = None
    of: Callable[[Stats], float] = mean
    unit: str = ""
    chance: float | None = None


def measure(
    stats: ArrayLike, of: Callable[[Stats], float] = mean, *, unit: str = "", chance: float | None = None
) -> Measure:
    """Return a metric of statistics [n] or [n, s]."""
    array = np.asarray(stats, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    return Measure(value=of(array) if len(array) else float("nan"), stats=array, of=of, unit=unit, chance=chance)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Metrics by name, examples as records `eval-example/1`, predictions in the task's own format.

    skipped: metrics that could not be computed, with the reason. failed: rows that could not be read, as
    `where: reason`. images: the images of each row. coverage: differences between the ids of data and predictions.
    invalid: metrics in `skipped` that are not finite numbers.
    """

    measures: Mapping[str, Measure] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    predictions: list[Row] = field(default_factory=list)
    skipped: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    images: list[tuple[ImageRef, ...]] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    invalid: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        return {name: measure.value for name, measure in self.measures.items()}

    def only(self, names: Sequence[str] | None) -> Report:
        """Return the report with only these metrics; "bleu" means bleu1 to bleu4, None all."""
        if names is None:
            return self
        kept = {name: m for name, m in self.measures.items() if name in names or metric_family(name) in names}
        return replace(self, measures=kept)

    def finite(self) -> Report:
        """Return the report with metrics that are not finite numbers moved to `skipped`."""
        reason = "is {}: the scores are constant, too few or not numbers"
        bad = {name: reason.format(m.value) for name, m in self.measures.items() if not math.isfinite(m.value)}
        kept = {name: m for name, m in self.measures.items() if name not in bad}
        return replace(self, measures=kept, skipped={**self.skipped, **bad}, invalid=tuple(bad))


def metric_family(name: str) -> str:
    """Name that stands for several metrics: bleu for bleu1 to bleu4, accuracy_ for the accuracies by kind."""
    if name.startswith("accuracy_"):
        return "accuracy_"
    return "bleu" if name in ("bleu1", "bleu2", "bleu3", "bleu4") else name


class Evaluation(Protocol):
    """Evaluation of one task; `blip.eval.nlvr` is a short example."""

    @property
    def name(self) -> str: ...

    @property
    def capability(self) -> str:
        """Capability that the model must have (`Model.require`)."""
        ...

    @property
    def form(self) -> Form:
        """Fields of a prediction."""
        ...

    @property
    def metric_names(self) -> Sequence[str]:
        """Metrics that may be reported; "accuracy_" stands for those by kind of question."""
        ...

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        """Return the rows of a data source, checked for this evaluation."""
        ...

    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """Return predictions in the task's own format."""
        ...

    def score(self, source: Source, predictions: Predictions, *, allow_missing: bool = False) -> Report:
        """Return the report of predictions from any program.

        Raises UsageError for missing, surplus and repeated ids, BadRecord for a prediction with other fields. With
        allow_missing the rows that have a prediction are scored; the differences are counted in `Report.coverage`.
        """
        ...
