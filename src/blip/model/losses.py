"""Losses of BLIP (paper section 3.2) as pure functions of tensors."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Scope = Literal["valid", "all"]


def itc_loss(sim: Tensor, targets: Tensor) -> Tensor:
    """Soft-target cross entropy of one direction (image to text or text to image), mean over rows.

    sim: [B, B+Q] similarities divided by temperature; targets: the same shape, rows sum to 1.
    Source: models/blip_pretrain.py, the two `loss_i2t` / `loss_t2i` lines.
    """
    return -(targets * sim.log_softmax(dim=1)).sum(dim=1).mean()


def soft_targets(sim_m: Tensor, hard: Tensor, alpha: float) -> Tensor:
    """Hard targets mixed with the softmax of the momentum similarities; both [B, B+Q], rows sum to 1."""
    return alpha * sim_m.softmax(dim=1) + (1 - alpha) * hard


def lm_loss(
    logits: Tensor,
    labels: Tensor,
    smoothing: float,
    reduction: Literal["mean", "none"] = "mean",
    scope: Scope = "valid",
) -> Tensor:
    """Next-token cross entropy with label smoothing.

    logits [R, T, V] predict labels [R, T] one position to the right; -100 = ignored.
    "mean" returns a scalar, "none" one sum per row [R]. `scope="all"` applies the smoothing term to ignored positions
    too, as torch 1.10 did when the original was trained (blip-spec 7.1). Source: models/med.py BertLMHeadModel.forward.
    """
    logits, labels = at_least_float32(logits[:, :-1]), labels[:, 1:]
    if scope == "all":
        return _lm_loss_all(logits, labels, smoothing, reduction)
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction=reduction, ignore_index=-100
    )
    return loss if reduction == "mean" else loss.view(labels.shape).sum(dim=1)


def _lm_loss_all(logits: Tensor, labels: Tensor, smoothing: float, reduction: str) -> Tensor:
    log_probs = logits.log_softmax(dim=-1)
    valid = labels != -100
    nll = -log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * valid
    smooth = -log_probs.mean(dim=-1)
    if reduction == "none":
        return ((1 - smoothing) * nll + smoothing * smooth).sum(dim=1)
    return (1 - smoothing) * nll.sum() / valid.sum() + smoothing * smooth.mean()


def itm_loss(logits: Tensor, num_positives: int) -> Tensor:
    """Binary matching loss of logits [R, 2]: the first `num_positives` rows match, the others do not."""
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[:num_positives] = 1
    return F.cross_entropy(at_least_float32(logits), labels)


def hard_negative_weights(sim: Tensor, excluded: Tensor, floor: float = 0.0) -> Tensor:
    """Probabilities [B, M] of each candidate to be drawn as a row's negative.

    sim: [B, M] similarities divided by temperature; excluded: [B, M], True = not a negative (the pair itself or one of
    the same image). Rows without candidates are all zero; `draw_negatives` returns -1 for them.
    Source: blip_pretrain.py (floor 1e-4) and blip_retrieval.py (floor 0).
    """
    return (sim.softmax(dim=1) + floor).masked_fill(excluded, 0.0)


def draw_negatives(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One candidate per row [B] of weights [B, M], drawn row by row as in the original; -1 if a row has none."""
    has_candidate = weights.sum(dim=1) > 0
    drawn = [
        int(torch.multinomial(row, 1, generator=generator)) if ok else -1
        for row, ok in zip(weights.cpu(), has_candidate.tolist(), strict=True)
    ]
    return torch.tensor(drawn, device=weights.device)


def at_least_float32(x: Tensor) -> Tensor:
    """x as float32 if its dtype is narrower, else unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
