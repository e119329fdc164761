"""Intervals and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from blip.eval.base import Measure, measure, percentage
from blip.eval.statistics import interval, paired
from blip_lite.errors import UsageError


def test_an_interval_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = interval(measure(values), 2000) or (0, 0)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.03)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.03)
    assert interval(measure(values), 2000) == (low, high)


def test_photos_are_drawn_with_all_their_texts() -> None:
    metric = measure([[5, 5], [0, 5]], percentage)
    assert metric.value == 50 and interval(metric, 500) == (0, 100)


@pytest.mark.parametrize("metric", [Measure(value=0.3), measure([1.0])])
def test_without_examples_there_is_no_interval(metric: Measure) -> None:
    assert interval(metric, 100) is None


def test_differences_are_those_of_the_same_examples() -> None:
    mine = [{"key": str(i), "scores": {"accuracy": 1.0}} for i in range(30)] + [{"key": "x", "scores": {"accuracy": 0}}]
    other = [{"key": str(i), "scores": {"accuracy": float(i < 6)}} for i in range(30)]
    difference = paired(mine, other[::-1], 500)["accuracy"]
    assert difference.value == pytest.approx(0.8) and difference.n == 30
    assert 0.6 < difference.low < 0.8 < difference.high < 1
    with pytest.raises(UsageError, match="no example in common"):
        paired(mine, [{"key": "z", "scores": {"accuracy": 1.0}}], 10)
