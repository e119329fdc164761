"""Agreement of match probabilities with the truth: expected calibration error, reliability curve, AUC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10


def reliability(probabilities: Sequence[float], labels: Sequence[bool], bins: int = BINS) -> list[dict[str, float]]:
    """Return the non-empty bins of equal width: limits, count, mean probability and share of true pairs."""
    p, y = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=float)
    of_bin = np.minimum((p * bins).astype(int), bins - 1)
    return [
        {
            "from": i / bins,
            "to": (i + 1) / bins,
            "count": int((of_bin == i).sum()),
            "probability": float(p[of_bin == i].mean()),
            "true": float(y[of_bin == i].mean()),
        }
        for i in range(bins)
        if (of_bin == i).any()
    ]


def expected_calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int = BINS) -> float:
    """Mean distance of probability and share of true pairs over the bins, weighted by count (Guo et al. 2017)."""
    curve = reliability(probabilities, labels, bins)
    total = sum(b["count"] for b in curve)
    return sum(b["count"] * abs(b["probability"] - b["true"]) for b in curve) / total


def pair_accuracy(true: Sequence[float], false: Sequence[float]) -> float:
    """Share of pairs in which the true caption has the higher score; ties count half."""
    first, second = np.asarray(true, dtype=float), np.asarray(false, dtype=float)
    return float((first > second).mean() + 0.5 * (first == second).mean())


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Area under the ROC curve: share of all pairs in the right order, ties half."""
    values: NDArray[Any] = np.concatenate([positives, negatives])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of equal values, from 1
    count, others = len(positives), len(negatives)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * others))
