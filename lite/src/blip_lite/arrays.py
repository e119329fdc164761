"""Array types, and numeric functions that several modules use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities over the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def match_probability(logits: Floats) -> Floats:
    """Logits [..., 2] of no match and match -> probability [...] of a match."""
    result: Floats = np.exp(log_softmax(logits))[..., 1]
    return result
