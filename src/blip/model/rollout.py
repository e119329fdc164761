"""Attention rollout through a text that reads an image (Abnar and Zuidema 2020, with cross-attention added)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Shares [T, N] that image positions have in each of T tokens after these attentions, in the order they ran.

    attentions: of a token to tokens [H, T, T] and to the image [H, T, N], by turns; heads are averaged. Each counts one
    half, the residual connection around it the other; MLPs and norms are left out. So a token's shares of words and
    image add up to 1, and those given here to less. A single attention to the image is given as it is.
    """
    means = [attention.mean(dim=0) for attention in attentions]
    if len(means) == 1:
        return means[0]
    share = torch.zeros_like(means[1])
    for own, image in zip(means[::2], means[1::2], strict=True):
        share = (share + own @ share) / 2
        share = (share + image) / 2
    return share
