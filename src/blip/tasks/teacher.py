"""A sentence encoder as teacher of the text side: captions near in meaning there are to be near here.

6,000 photos teach a text encoder to tell their captions apart, and make it forget what it knew of all other texts.
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
class Teacher:
    """Unit vectors [M, W] of M cleaned captions."""

    rows: dict[str, int]
    vectors: Tensor

    def of(self, texts: Sequence[str]) -> Tensor:
        """[B, W]"""
        return self.vectors[[self.rows[text] for text in texts]].float()


def read_teacher(folder: Path) -> Teacher:
    """`captions.txt`, one cleaned caption a line, and `vectors.npy` with a row for each."""
    lines = (folder / "captions.txt").read_text(encoding="utf-8").split("\n")[:-1]
    vectors = torch.from_numpy(np.load(folder / "vectors.npy"))
    if len(lines) != len(vectors):
        raise BadRecord(str(folder), f"{len(lines)} captions and {len(vectors)} vectors; must be as many")
    return Teacher({line: i for i, line in enumerate(lines)}, vectors)


def likeness_loss(features: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far the likeness of each text to the others is from the teacher's: Kullback-Leibler, mean of rows.

    features [B, E], taught [B, W], of unit length; a text's likeness to itself says nothing and is left out.
    """
    own = torch.eye(len(features), dtype=torch.bool, device=features.device)
    ours, theirs = (
        (x @ x.T / temperature).masked_fill(own, -1e4).log_softmax(dim=1) for x in (features.float(), taught.float())
    )
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
