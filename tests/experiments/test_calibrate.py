"""Calibration of the match probability: fitted values of known pairs, and their use in the shipped head."""

from __future__ import annotations

import pytest
import torch

from experiments.tiny.calibrate import fit, mixed, weighted_error
from experiments.tiny.measure_matching import OTHER, TRUE, Caption, Scored
from experiments.tiny.ship import difference, rows


def test_fit_finds_scale_and_bias_of_known_probabilities() -> None:
    true_logits = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    logits = torch.cat([true_logits, true_logits])
    labels = torch.cat([torch.ones(2001), torch.zeros(2001)]).double()
    chances = true_logits.sigmoid()
    weights = torch.cat([chances, 1 - chances])  # each logit is true with its own probability
    scale, bias = fit((logits - 1) / 2, labels, weights)
    assert (scale, bias) == (pytest.approx(2, abs=1e-3), pytest.approx(1, abs=1e-3))


def test_mixed_weighs_true_captions_like_all_false_ones() -> None:
    kinds = [TRUE, OTHER, "colour", TRUE, "number", "colour"]
    captions = [Caption(kind, "a cat", 0) for kind in kinds]
    scored = Scored([0] * 6, captions, [0.9, 0.2, 0.4, 0.8, 0.5, 0.1], [0.0] * 6)
    logits, labels, weights = mixed(scored)
    assert logits.sigmoid().tolist() == pytest.approx([0.9, 0.8, 0.2, 0.4, 0.5, 0.1])
    assert labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert weights.tolist() == pytest.approx([0.25, 0.25, 0.25, 1 / 12, 1 / 12, 1 / 12])


def test_weighted_error_is_zero_where_probability_is_the_share_of_true_pairs() -> None:
    logits = torch.logit(torch.tensor([0.75, 0.75], dtype=torch.float64))
    weights = torch.tensor([0.75, 0.25], dtype=torch.float64)
    assert weighted_error(logits, torch.tensor([1, 0]).double(), weights) == pytest.approx(0, abs=1e-9)
    assert weighted_error(logits + 2, torch.tensor([1, 0]).double(), weights) > 0.1


def test_shipped_rows_keep_the_difference_and_rank_by_its_share() -> None:
    head = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    shipped = rows(difference(head), 0.25)
    assert torch.equal(difference(shipped), difference(head))
    assert torch.equal(shipped[1], 0.25 * difference(head))
