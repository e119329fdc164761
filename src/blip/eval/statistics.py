"""Bootstrap intervals of metrics, and tests of paired differences between two evaluations. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from blip.eval.base import Measure, Row, Stats, mean, measure
from blip_lite.errors import UsageError

LEVEL = 0.95
TOLERANCE = 1e-5  # scores that differ by less are equal: stored ones have six digits, other machines round differently
EXACT = 12  # differences for which all signs are enumerated
SIGN_DRAWS = 10_000  # for more


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
    """Mean of this minus other over the common examples.

    low, high: bootstrap interval, if it was drawn. p: two-sided probability of a mean at least as large if both were
    equally good (sign-flip test). changed: number of examples whose scores differ.
    """

    value: float
    p: float
    n: int
    changed: int
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the test and, if drawn, the interval exclude 0."""
        excluded = self.low is None or self.high is None or self.low > 0 or self.high < 0
        return self.p < 1 - LEVEL and excluded

    def to_dict(self) -> dict[str, float | bool | None]:
        return {
            "difference": self.value,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "clear": self.clear,
            "n": self.n,
            "changed": self.changed,
        }


def paired(mine: Sequence[Row], other: Sequence[Row], draws: int, seed: int = 0) -> dict[str, Difference]:
    """Differences of every score that both evaluations have. Raises UsageError if they share no example."""
    theirs = {_identity(row): row["scores"] for row in other if row.get("scores")}
    both = [(row["scores"], theirs[_identity(row)]) for row in mine if row.get("scores") and _identity(row) in theirs]
    if not both:
        raise UsageError("--compare: the two evaluations have no example in common (same key, direction and text)")
    names = [name for name in both[0][0] if all(name in a and name in b for a, b in both)]
    return {name: _difference([(a[name], b[name]) for a, b in both], draws, seed) for name in names}


def _identity(row: Mapping[str, object]) -> tuple[object, ...]:
    """Name of an example: a key may have a row per direction (retrieval) or per text (judgements)."""
    return row["key"], row.get("direction"), row.get("text")


def _difference(pairs: Sequence[tuple[float, float]], draws: int, seed: int) -> Difference:
    values = np.asarray(pairs, dtype=float)
    differences = values[:, 0] - values[:, 1]
    differences[np.abs(differences) <= TOLERANCE * np.maximum(1, np.abs(values).max(axis=1))] = 0
    metric = measure(differences, mean)
    low, high = interval(metric, draws, seed) or (None, None)
    return Difference(
        value=metric.value,
        p=_sign_flip(differences[differences != 0], seed),
        n=len(values),
        changed=int(np.count_nonzero(differences)),
        low=low,
        high=high,
    )


def _sign_flip(differences: Stats, seed: int) -> float:
    """Two-sided p of the sum of differences [n] against random signs: exact for few, else drawn."""
    count = len(differences)
    if count == 0:
        return 1.0
    observed = abs(differences.sum()) * (1 - 1e-9)  # equal sums round differently
    if count <= EXACT:
        signs = 1 - 2 * ((np.arange(1 << count)[:, None] >> np.arange(count)) & 1)
        return float((np.abs(signs @ differences) >= observed).mean())
    rng, extreme = np.random.default_rng(seed), 0
    for _ in range(SIGN_DRAWS // 100):  # in parts, which bounds memory
        extreme += int((np.abs(rng.choice((-1.0, 1.0), (100, count)) @ differences) >= observed).sum())
    return (extreme + 1) / (SIGN_DRAWS + 1)
