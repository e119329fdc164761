"""Attention probabilities and their gradients, captured with hooks (fused kernels return neither)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from blip.model.layers import Attention
from blip.model.losses import at_least_float32


class AttentionHook:
    """Inputs of one attention, and its result before the output projection, of the last forward pass.

    leaf: make that result a leaf, so that a backward pass stops there and computes no gradients of weights.
    """

    def __init__(self, attention: Attention, leaf: bool) -> None:
        self.module, self.leaf = attention, leaf
        self.queries: Tensor
        self.keys: Tensor
        self.values: Tensor
        self.mask: Tensor | None = None
        self.attended: Tensor

    def before_attention(self, _module: Any, inputs: tuple[Any, ...]) -> None:
        x, (self.keys, self.values), *rest = inputs
        self.queries = self.module.heads(self.module.q(x))
        self.mask = rest[0] if rest else None

    def before_projection(self, _module: Any, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        if not self.leaf:
            return None
        self.attended = inputs[0].detach().requires_grad_()
        return (self.attended,)

    def probabilities(self) -> Tensor:
        """Attention [B, H, T, N], sums to 1 over N; float32 or wider."""
        queries, keys = at_least_float32(self.queries.detach()), at_least_float32(self.keys.detach())
        scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, float("-inf"))
        probabilities: Tensor = scores.softmax(dim=-1)
        return probabilities

    def gradient(self, upstream: Tensor) -> Tensor:
        """Gradient of the probabilities [B, H, T, N], from `upstream`, the gradient of `attended` [B, T, D]."""
        values = at_least_float32(self.values.detach())
        return at_least_float32(self.module.heads(upstream)) @ values.transpose(2, 3)


@contextmanager
def capture_attention(attentions: Sequence[Attention], *, leaf: bool = False) -> Iterator[list[AttentionHook]]:
    """Hooks on these attentions while the block runs; not for two threads at a time with the same model."""
    hooks = [AttentionHook(attention, leaf) for attention in attentions]
    handles = [
        handle
        for hook in hooks
        for handle in (
            hook.module.register_forward_pre_hook(hook.before_attention),
            hook.module.out.register_forward_pre_hook(hook.before_projection),
        )
    ]
    try:
        yield hooks
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def enable_gradients() -> Iterator[None]:
    """Enable gradients, inside inference mode too; tensors created in inference mode must be cloned to take part."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
