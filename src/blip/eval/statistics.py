"""Bootstrap intervals of metrics, and of paired differences between two evaluations. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blip.eval.base import Measure, Row, mean, measure
from blip_lite.errors import UsageError

LEVEL = 0.95


def interval(metric: Measure, draws: int, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval over `draws` resamplings of the examples; None if the metric cannot be resampled."""
    if metric.stats is None or len(metric.stats) < 2 or draws < 1:
        return None
    rng = np.random.default_rng(seed)
    values = [metric.of(metric.stats[rng.integers(0, len(metric.stats), len(metric.stats))]) for _ in range(draws)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of this minus other over the common examples, with its interval."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        return {"difference": self.value, "low": self.low, "high": self.high, "n": self.n}


def paired(mine: Sequence[Row], other: Sequence[Row], draws: int, seed: int = 0) -> dict[str, Difference]:
    """Differences of every score that both evaluations have. Raises UsageError if they share no example."""
    theirs = {_identity(row): row["scores"] for row in other if row.get("scores")}
    both = [(row["scores"], theirs[_identity(row)]) for row in mine if row.get("scores") and _identity(row) in theirs]
    if not both:
        raise UsageError("--compare: the two evaluations have no example in common (same key and direction)")
    names = [name for name in both[0][0] if all(name in a and name in b for a, b in both)]
    return {name: _difference([a[name] - b[name] for a, b in both], draws, seed) for name in names}


def _identity(row: Mapping[str, object]) -> tuple[object, object]:
    return row["key"], row.get("direction")


def _difference(values: Sequence[float], draws: int, seed: int) -> Difference:
    difference = measure(np.asarray(values, dtype=float), mean)
    low, high = interval(difference, draws, seed) or (difference.value, difference.value)
    return Difference(value=difference.value, low=low, high=high, n=len(values))
