"""Kendall's tau by hand, by definition over all pairs, and as recorded from scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blip.metrics.agreement import kendall_tau_b, kendall_tau_c
from blip_lite.errors import UsageError


def by_definition(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Tau-b and tau-c from the signs of all pairs."""
    signs_x, signs_y = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])
    both = (signs_x * signs_y).sum() / 2
    norm = math.sqrt(np.abs(signs_x).sum() / 2 * np.abs(signs_y).sum() / 2)
    classes = min(len(np.unique(x)), len(np.unique(y)))
    return both / norm, 2 * both / (len(x) ** 2 * (classes - 1) / classes)


def test_tau_by_hand() -> None:
    # pairs of y in the order of x: 1-3 up, 1-2 up, 1-4 up, 3-2 down, 3-4 up, 2-4 up: (5 - 1) / 6
    assert kendall_tau_b([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert kendall_tau_b([4, 3, 2, 1], [1, 2, 3, 4]) == -1.0
    # one pair tied in x: 2 concordant of 3 pairs; tau-b 2 / sqrt(2 * 3), tau-c 2 * 2 / (9 * 1/2)
    assert kendall_tau_b([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau_c([1, 1, 2], [1, 2, 3]) == pytest.approx(4 / 4.5)


def test_tau_equals_scipy() -> None:
    # scipy 1.17.1 kendalltau(x, y, variant=...) of these
    x, y = [12, 2, 1, 12, 2, 5, 7, 7], [1, 4, 7, 1, 0, 3, 3, 2]
    assert kendall_tau_b(x, y) == pytest.approx(-0.5491251783869153, abs=1e-12)
    assert kendall_tau_c(x, y) == pytest.approx(-0.546875, abs=1e-12)


@pytest.mark.parametrize("classes", [(2, 2), (4, 1000), (1000, 4), (7, 7), (1000, 1000)])
@pytest.mark.parametrize("n", [2, 3, 17, 200])
def test_tau_equals_its_definition_with_ties(classes: tuple[int, int], n: int) -> None:
    rng = np.random.default_rng(n)
    x = np.append(rng.integers(0, classes[0], n), [0, 1])
    y = np.append(rng.integers(0, classes[1], n), [1, 0]) * 0.1 + (x > 0)
    assert (kendall_tau_b(x, y), kendall_tau_c(x, y)) == pytest.approx(by_definition(x, y), abs=1e-12)


def test_order_of_the_pairs_and_of_the_two_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(1, 5, 99), rng.random(99)
    drawn = rng.permutation(99)
    assert kendall_tau_b(x, y) == kendall_tau_b(x[drawn], y[drawn]) == pytest.approx(kendall_tau_b(y, x))


@pytest.mark.parametrize("tau", [kendall_tau_b, kendall_tau_c])
def test_constants_and_single_values_have_no_tau(tau: object) -> None:
    assert callable(tau)
    assert all(math.isnan(tau(x, y)) for x, y in (([1, 1], [2, 3]), ([2, 3], [1, 1]), ([1], [2]), ([], [])))


def test_lengths_must_agree() -> None:
    with pytest.raises(UsageError, match="2 values with 1"):
        kendall_tau_b([1, 2], [1])
