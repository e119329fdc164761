"""Recalls against the original's and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.eval.dense import ranks, recalls
from tests.oracle_files import tensors, values


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.8], [0.2, 0.3, 0.7]], dtype=np.float32)
    text_ranks, image_ranks = ranks(scores, np.array([0, 1, 1]))
    assert text_ranks.tolist() == [0, 0]
    assert image_ranks.tolist() == [0, 0, 1]


@pytest.mark.parametrize("case", ["k4", "k8", "k12"])
def test_recalls_equal_the_original(case: str) -> None:
    recorded, metrics = tensors("retrieval_eval"), values("retrieval_eval")[f"{case}.metrics"]
    owner = np.arange(24) // 2
    result = recalls(recorded[f"{case}.score_i2t"].numpy(), owner, recorded[f"{case}.score_t2i"].numpy().T)
    for k in (1, 5, 10):
        if k <= int(case[1:]):  # beyond, the original ranks unscored pairs by chance
            assert result[f"txt_r{k}"] == pytest.approx(metrics[f"txt_r{k}"])
            assert result[f"img_r{k}"] == pytest.approx(metrics[f"img_r{k}"])


def test_unscored_pairs_never_count_as_found() -> None:
    scores = np.full((3, 3), -100.0, dtype=np.float32)
    assert recalls(scores, np.arange(3))["txt_r1"] == 0.0
