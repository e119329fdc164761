"""The sentence encoder's say: likeness of captions as the teacher has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blip.tasks.teacher import likeness_loss, read_teacher
from blip_lite.errors import BadRecord


def write(folder: Path, lines: list[str], vectors: torch.Tensor) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "captions.txt").write_text("".join(line + "\n" for line in lines))
    np.save(folder / "vectors.npy", vectors.half().numpy())


def test_vectors_are_found_by_caption(tmp_path: Path) -> None:
    write(tmp_path, ["a dog", "a cat", "men"], torch.eye(3))
    assert read_teacher(tmp_path).of(["men", "a dog"]).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_lines_without_a_vector_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["a dog"], torch.eye(3))
    with pytest.raises(BadRecord, match="1 captions and 3 vectors"):
        read_teacher(tmp_path)


def test_the_loss_is_nothing_where_both_agree_and_falls_towards_the_teacher() -> None:
    torch.manual_seed(0)
    taught = F.normalize(torch.randn(6, 8), dim=1)
    turned = taught @ torch.linalg.qr(torch.randn(8, 8)).Q  # likeness does not depend on the axes
    assert likeness_loss(turned, taught, 0.1).item() == pytest.approx(0, abs=1e-4)
    features = torch.randn(6, 8, requires_grad=True)
    first = likeness_loss(F.normalize(features, dim=1), taught, 0.1)
    (gradient,) = torch.autograd.grad(first, features)
    second = likeness_loss(F.normalize(features - 0.1 * gradient, dim=1), taught, 0.1)
    assert 0 < second.item() < first.item()


def test_a_text_is_not_compared_with_itself() -> None:
    features, taught = torch.eye(2), F.normalize(torch.ones(2, 2), dim=1)
    assert likeness_loss(features, taught, 0.1).item() == pytest.approx(0, abs=1e-6)  # one other text, all the chance
