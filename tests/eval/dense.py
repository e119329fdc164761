"""Recall at k of dense score matrices: what the ranking of pairs is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KS = (1, 5, 10)


def ranks(scores: NDArray[np.float32], owner: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best rank (0 = first) of a correct text for each image, and of its image for each text; ties count against.

    scores: [images, texts]; owner: [texts], the image that each text belongs to. Source: train_retrieval.py itm_eval
    (where ties fall as the sort happens to leave them, so that unscored pairs may rank among the first k by chance).
    """
    columns = np.arange(len(owner))
    correct = scores[owner, columns]
    image_ranks = (scores >= correct[None, :]).sum(axis=0) - 1
    best = np.full(len(scores), -np.inf)
    np.maximum.at(best, owner, correct)
    foreign = scores.copy()
    foreign[owner, columns] = -np.inf
    return (foreign >= best[:, None]).sum(axis=1), image_ranks


def recalls(
    scores: NDArray[np.float32], owner: NDArray[np.int64], by_text: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """txt_r1 ... img_r10 in percent (photo to text, text to photo) and their means, as the original names them.

    by_text: scores [images, texts] of the way from text to photo, where re-ranking makes them differ.
    """
    result: dict[str, float] = {}
    both = ranks(scores, owner)[0], ranks(scores if by_text is None else by_text, owner)[1]
    for name, direction in zip(("txt", "img"), both, strict=True):
        at_k = {f"{name}_r{k}": 100.0 * float((direction < k).mean()) for k in KS}
        result |= at_k | {f"{name}_r_mean": sum(at_k.values()) / len(KS)}
    result["r_mean"] = (result["txt_r_mean"] + result["img_r_mean"]) / 2
    return result
