"""How sure a figure is: bootstrap intervals of metrics, and of paired differences between two evaluations. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blip.eval.base import Measure, Row, mean, measure
from blip_lite.errors import UsageError

LEVEL = 0.95


def interval(one: Measure, draws: int, seed: int = 0) -> tuple[float, float] | None:
    """The middle 95 % of a metric's values over `draws` resamplings of its examples; None where it has none."""
    if one.stats is None or len(one.stats) < 2 or draws < 1:
        return None
    rng = np.random.default_rng(seed)
    values = [one.of(one.stats[rng.integers(0, len(one.stats), len(one.stats))]) for _ in range(draws)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of this - other over the examples that both have, with its interval."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        return {"difference": self.value, "low": self.low, "high": self.high, "n": self.n}


def paired(mine: Sequence[Row], other: Sequence[Row], draws: int, seed: int = 0) -> dict[str, Difference]:
    """Differences of every score that both evaluations give their examples. Raises UsageError without common ones."""
    theirs = {_place(row): row["scores"] for row in other if row.get("scores")}
    both = [(row["scores"], theirs[_place(row)]) for row in mine if row.get("scores") and _place(row) in theirs]
    if not both:
        raise UsageError("--compare: the two evaluations have no example in common (same key and direction)")
    names = [name for name in both[0][0] if all(name in a and name in b for a, b in both)]
    return {name: _difference([a[name] - b[name] for a, b in both], draws, seed) for name in names}


def _place(row: Mapping[str, object]) -> tuple[object, object]:
    return row["key"], row.get("direction")


def _difference(values: Sequence[float], draws: int, seed: int) -> Difference:
    one = measure(np.asarray(values, dtype=float), mean)
    low, high = interval(one, draws, seed) or (one.value, one.value)
    return Difference(value=one.value, low=low, high=high, n=len(values))
