"""Intervals and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    assert 0.6 < (difference.low or 0) < 0.8 < (difference.high or 1) < 1
    assert difference.clear and difference.p < 0.001 and difference.changed == 24
    with pytest.raises(UsageError, match="no example in common"):
        paired(mine, [{"key": "z", "scores": {"accuracy": 1.0}}], 10)


def rows(scores: Sequence[float]) -> list[dict[str, Any]]:
    return [{"key": str(i), "scores": {"cider": score}} for i, score in enumerate(scores)]


def test_rounded_scores_are_equal() -> None:
    scores = np.random.default_rng(0).random(50) * 3
    difference = paired(rows(scores + 3e-7), rows(scores), 200)["cider"]
    assert (difference.value, difference.p, difference.changed, difference.clear) == (0, 1, 0, False)


def test_few_or_balanced_changes_are_not_clear() -> None:
    for count, p in ((3, 0.25), (5, 0.0625), (8, 2 / 256)):
        difference = paired(rows([1.0] * count), rows([0.0] * count), 200)["cider"]
        assert difference.p == pytest.approx(p) and difference.clear == (p < 0.05)
    noise = np.random.default_rng(1).normal(size=200)
    assert not paired(rows(noise), rows([0.0] * 200), 200)["cider"].clear
    assert paired(rows(noise + 0.5), rows([0.0] * 200), 0)["cider"].clear  # also without an interval


def test_texts_of_one_photo_are_different_examples() -> None:
    mine = [{"key": "a", "text": text, "scores": {"itm": value}} for text, value in (("x", 0.1), ("y", 0.9))]
    assert paired(mine, mine[::-1], 10)["itm"].changed == 0
