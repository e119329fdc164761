"""Comparison of exported graphs with their torch modules, on the same inputs of sizes not used at export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blip.apps.export.graphs import Graph, arguments
from blip_lite.errors import CheckpointMismatch
from blip_lite.graph_sessions import GraphSessions

MASKS = ("attention_mask", "cross_mask")
# Sizes of the free axes: first as at the start of a text, then two mixtures.
SIZES: tuple[Mapping[str, int], ...] = (
    {"images": 1, "rows": 1, "length": 2, "texts": 1, "tokens": 3, "new": 3, "past": 0, "past_rows": 1},
    {"images": 3, "rows": 2, "length": 9, "texts": 4, "tokens": 11, "new": 1, "past": 7, "past_rows": 5},
    {"images": 4, "rows": 1, "length": 6, "texts": 2, "tokens": 5, "new": 2, "past": 1, "past_rows": 2},
)


def max_difference(graph: Graph, sessions: GraphSessions, vocab_size: int) -> float:
    """Return the largest absolute difference between a graph and its module, over three inputs."""
    result = 0.0
    for seed, sizes in enumerate(SIZES):
        feeds = _random_inputs(graph, sizes, vocab_size, np.random.default_rng(seed))
        with torch.no_grad():
            output: Any = graph.module(*arguments({name: torch.from_numpy(x) for name, x in feeds.items()}))
        expected = [output] if isinstance(output, torch.Tensor) else list(output)
        for ours, theirs in zip(sessions.run(graph.name, feeds), expected, strict=True):
            if ours.shape != tuple(theirs.shape):
                raise CheckpointMismatch(f"{graph.name}.onnx returns {list(ours.shape)}, torch {list(theirs.shape)}")
            result = float(np.abs(ours - theirs.numpy()).max(initial=result))  # keeps NaN, which max() would lose
    return result


def check_difference(name: str, difference: float, tolerance: float) -> None:
    """Raise CheckpointMismatch if a graph differs by more than `tolerance`."""
    if not difference <= tolerance:
        raise CheckpointMismatch(
            f"{name}.onnx differs from torch by {difference:.2g}, more than --tolerance {tolerance:g}; "
            "nothing was written"
        )


def _random_inputs(
    graph: Graph, sizes: Mapping[str, int], vocab_size: int, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Return inputs with these axes: random ids, masks of random lengths, and normally distributed numbers."""
    feeds: dict[str, NDArray[Any]] = {}
    for name, value in graph.inputs.items():
        shape = value.shape(sizes)
        if not value.is_integer:
            feeds[name] = rng.standard_normal(shape, dtype=np.float32)
        elif name in MASKS:
            lengths = rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
            feeds[name] = (np.arange(shape[-1]) < lengths).astype(np.int64)
        else:
            feeds[name] = rng.integers(0, sizes["past_rows"] if name == "rows" else vocab_size, shape)
    return feeds
