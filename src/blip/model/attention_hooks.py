"""Attention seen from outside while it runs: probabilities and their gradients, which a fused kernel never shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from blip.model.layers import Attention
from blip.model.losses import at_least_float32


class AttentionHook:
    """What passed through one attention: its input, its keys and values, its result before the last linear layer.

    leaf: makes that result a leaf, so that a backward pass ends here and needs no gradient of any weight.
    """

    def __init__(self, attention: Attention, leaf: bool) -> None:
        self.module, self.leaf = attention, leaf
        self.queries: Tensor
        self.keys: Tensor
        self.values: Tensor
        self.mask: Tensor | None = None
        self.attended: Tensor

    def enter(self, _module: Any, inputs: tuple[Any, ...]) -> None:
        x, (self.keys, self.values), *rest = inputs
        self.queries = self.module.heads(self.module.q(x))
        self.mask = rest[0] if rest else None

    def leave(self, _module: Any, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        if not self.leaf:
            return None
        self.attended = inputs[0].detach().requires_grad_()
        return (self.attended,)

    def probabilities(self) -> Tensor:
        """[B, H, T, N], sums to 1 over N; float32 or wider."""
        queries, keys = at_least_float32(self.queries.detach()), at_least_float32(self.keys.detach())
        scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, float("-inf"))
        chances: Tensor = scores.softmax(dim=-1)
        return chances

    def gradient(self, upstream: Tensor) -> Tensor:
        """Of the probabilities A [B, H, T, N], from that of A @ V, which is `attended` [B, T, D]: that times V^T."""
        values = at_least_float32(self.values.detach())
        return at_least_float32(self.module.heads(upstream)) @ values.transpose(2, 3)


@contextmanager
def capture_attention(attentions: Sequence[Attention], *, leaf: bool = False) -> Iterator[list[AttentionHook]]:
    """What passes through these attentions while the block runs; no two threads may do this with one model."""
    watched = [AttentionHook(attention, leaf) for attention in attentions]
    hooks = [
        hook
        for seen in watched
        for hook in (
            seen.module.register_forward_pre_hook(seen.enter),
            seen.module.out.register_forward_pre_hook(seen.leave),
        )
    ]
    try:
        yield watched
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients are on, inside inference mode too; tensors made before must be copied to take part."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
