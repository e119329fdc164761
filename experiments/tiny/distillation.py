"""Distillation from a sentence encoder: captions with similar meanings get similar text features.

With 6,000 photos a text encoder learns to tell their captions apart, and forgets what it knew of all other texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blip_lite.errors import BadRecord


@dataclass(frozen=True)
class TeacherVectors:
    """Unit vectors [M, W] of M cleaned captions."""

    rows: dict[str, int]
    vectors: Tensor

    def lookup(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors [B, W] of texts."""
        return self.vectors[[self.rows[text] for text in texts]].float()


def read_teacher_vectors(folder: Path) -> TeacherVectors:
    """Read `captions.txt`, one cleaned caption per line, and `vectors.npy` with one row for each."""
    lines = (folder / "captions.txt").read_text(encoding="utf-8").split("\n")[:-1]
    vectors = torch.from_numpy(np.load(folder / "vectors.npy"))
    if len(lines) != len(vectors):
        raise BadRecord(str(folder), f"{len(lines)} captions and {len(vectors)} vectors; counts must match")
    return TeacherVectors({line: i for i, line in enumerate(lines)}, vectors)


def similarity_loss(features: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's similarities between texts to ours, mean over rows.

    features [B, E], teacher [B, W], unit length; a text's similarity to itself is left out.
    """
    diagonal = torch.eye(len(features), dtype=torch.bool, device=features.device)
    ours, theirs = (
        (x @ x.T / temperature).masked_fill(diagonal, -1e4).log_softmax(dim=1)
        for x in (features.float(), teacher.float())
    )
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
