"""Agreement of two rankings: Kendall's tau with ties, in O(n log n).

Source: Kendall 1945 (tau-b), Stuart 1953 (tau-c); equal to scipy.stats.kendalltau.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blip_lite.errors import UsageError

Values = NDArray[Any] | Sequence[float]


def kendall_tau_b(x: Values, y: Values) -> float:
    """Tau-b of two sequences [n]: -1 to 1, normalized by the pairs without ties; NaN for a constant sequence."""
    first, second = _ranks(x, y)
    pairs, ties_x, ties_y = _pairs(len(first)), _ties(first), _ties(second)
    norm = math.sqrt((pairs - ties_x) * (pairs - ties_y))
    return _concordant_minus_discordant(first, second) / norm if norm else math.nan


def kendall_tau_c(x: Values, y: Values) -> float:
    """Tau-c of two sequences [n]: -1 to 1, for scales of different length; NaN for a constant sequence."""
    first, second = _ranks(x, y)
    classes = min(int(ranks.max(initial=-1)) + 1 for ranks in (first, second))
    if classes < 2:
        return math.nan
    return 2 * _concordant_minus_discordant(first, second) / (len(first) ** 2 * (classes - 1) / classes)


def _ranks(x: Values, y: Values) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return dense ranks from 0 of both, sorted by x, then y."""
    first_values, second_values = _values(x, "x"), _values(y, "y")
    if len(first_values) != len(second_values):
        raise UsageError(f"agreement of {len(first_values)} values with {len(second_values)}; counts must match")
    first, second = (
        np.unique(values, return_inverse=True)[1].astype(np.int64) for values in (first_values, second_values)
    )
    order = np.lexsort((second, first))
    return first[order], second[order]


def _values(values: Values, name: str) -> NDArray[np.float64]:
    """Return finite numbers [n]. Raises UsageError."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: must be numbers [n]") from error
    if array.ndim != 1 or isinstance(values, str):
        raise UsageError(f"{name} has {array.ndim} dimensions; must be numbers [n]")
    if not np.isfinite(array).all():
        raise UsageError(f"{name}[{int(np.argmin(np.isfinite(array)))}] is not finite; must be finite numbers")
    return array


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _ties(ranks: NDArray[np.int64]) -> int:
    """Number of pairs with equal ranks."""
    counts = np.bincount(ranks)
    return int((counts * (counts - 1) // 2).sum())


def _concordant_minus_discordant(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Number of concordant minus discordant pairs. first, second: from `_ranks`."""
    both = _ties(np.unique(first * (second.max(initial=0) + 1) + second, return_inverse=True)[1])
    untied = _pairs(len(first)) - _ties(first) - _ties(second) + both
    return untied - 2 * _inversions(second)


def _inversions(ranks: NDArray[np.int64]) -> int:
    """Number of pairs whose earlier rank is greater.

    Bit by bit: a pair counts at the highest bit in which its ranks differ, if the earlier rank has the bit set. `ranks`
    is kept stably sorted by the higher bits, so that such pairs are in one run.
    """
    total = 0
    for bit in reversed(range(int(ranks.max(initial=0)).bit_length())):
        above, has = ranks >> (bit + 1), (ranks >> bit) & 1
        before = np.cumsum(has) - has  # ranks with the bit set further left
        starts = np.concatenate([[True], above[1:] != above[:-1]])
        in_run = before - np.maximum.accumulate(np.where(starts, before, 0))
        total += int(in_run[has == 0].sum())
        ranks = ranks[np.argsort(ranks >> bit, kind="stable")]
    return total
