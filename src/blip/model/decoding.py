"""Processing of a decoding step's scores, with tensors; the settings are values of `blip_lite.decoding`.

Same semantics as the original (`generate` of transformers 4.15).
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip_lite.decoding import Decoding, blocked, is_noop

INFINITY = float("inf")


def process(scores: Tensor, ids: Tensor, decoding: Decoding, end: int) -> Tensor:
    """Apply repetition penalty, minimum length and blocked words to scores [R, V] of rows with ids [R, t].

    Returns `scores` itself if nothing applies, else a changed copy.
    """
    if is_noop(decoding, ids.shape[1]):
        return scores
    scores, penalty = scores.clone(), decoding.repetition_penalty
    if penalty != 1.0:
        seen = scores.gather(1, ids)
        scores.scatter_(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))
    if ids.shape[1] < decoding.min_length:
        scores[:, end].fill_(-INFINITY)
    if decoding.no_repeat_ngram or decoding.banned:
        for row, words in enumerate(blocked(ids.tolist(), decoding)):
            scores[row, words] = -INFINITY
    return scores


def nucleus(scores: Tensor, top_p: float, top_k: int, *, static: bool = False) -> tuple[Tensor, Tensor]:
    """Probabilities [R, K] after top-k and then top-p, descending, and their ids [R, K].

    Scores equal to the k-th are kept, and so is the one that crosses `top_p`. Excluded ids have probability 0.
    static: K is known without reading scores; of the scores equal to the k-th, at most `top_k` more are kept.
    """
    if 0 < top_k < scores.shape[1]:
        if static:
            ordered, ids = scores.topk(min(2 * top_k, scores.shape[1]), dim=1)
            last = ordered[:, top_k - 1, None]
        else:
            last = scores.topk(top_k, dim=1).values[:, -1:]
            kept = int((scores >= last).sum(dim=1).max())  # more than top_k if scores are equal
            ordered, ids = scores.topk(kept, dim=1)
        ordered = ordered.masked_fill(ordered < last, -INFINITY)
    else:
        ordered, ids = scores.sort(dim=1, descending=True)
    if top_p < 1.0:
        above = ordered.softmax(dim=1).cumsum(dim=1) > top_p
        above = torch.cat([torch.zeros_like(above[:, :1]), above[:, :-1]], dim=1)
        ordered = ordered.masked_fill(above, -INFINITY)
    return ordered.softmax(dim=1), ids


def nucleus_probs(scores: Tensor, top_p: float, top_k: int) -> Tensor:
    """`nucleus` as probabilities of all ids: [R, V]."""
    probs, ids = nucleus(scores, top_p, top_k)
    return torch.zeros_like(scores).scatter(1, ids, probs)
