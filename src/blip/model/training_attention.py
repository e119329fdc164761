"""Attention in training on a CPU, in blocks of heads or images whose scores stay in the cache, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1 << 19  # number of scores that are computed at a time


def training_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of queries [B, H, T, d] to keys and values [B, H, N, d], all heads of a token next to each other.

    The products are those of unfused attention, but scores and their gradients exist for one block only, and no result
    is copied to be passed on.
    """
    return cast(Tensor, _Attention.apply(queries, keys, values))  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        y, weights = _like(queries), queries.new_empty(*queries.shape[:3], keys.shape[2])
        for block in _blocks(weights):
            q, k, v = (x[block].flatten(0, 1) for x in (queries, keys, values))
            part = weights[block].flatten(0, 1)  # a view
            torch.softmax(_scaled(q, k.transpose(1, 2), q.shape[-1]), dim=-1, out=part)
            y[block] = torch.bmm(part, v).view_as(y[block])
        ctx.save_for_backward(queries, keys, values, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *inputs, weights = ctx.saved_tensors
        for_queries, for_keys, for_values = (_like(x) for x in inputs)
        for block in _blocks(weights):
            g, q, k, v, part = (x[block].flatten(0, 1) for x in (grad, *inputs, weights))
            for_part = torch.bmm(g, v.transpose(1, 2))
            for_scores = torch.ops.aten._softmax_backward_data(for_part, part, -1, part.dtype)
            for result, y in (
                (for_queries, _scaled(for_scores, k, k.shape[-1])),
                (for_keys, _scaled(for_scores.transpose(1, 2), q, q.shape[-1])),
                (for_values, torch.bmm(part.transpose(1, 2), g)),
            ):
                result[block] = y.view_as(result[block])
        return for_queries, for_keys, for_values


def _like(x: Tensor) -> Tensor:
    """Memory for x [B, H, T, d], laid out as [B, T, H, d]."""
    return torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _blocks(weights: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of images and heads: several whole images, or some heads of one image."""
    images, heads, length, source = weights.shape
    at_once, part = (max(1, BLOCK // (length * source * n)) for n in (heads, 1))
    for i in range(0, images, at_once):
        for j in range(0, heads, part):
            yield slice(i, i + at_once), slice(j, j + part)


def _scaled(a: Tensor, b: Tensor, width: int) -> Tensor:
    """The products a @ b [n, ., .], divided by the square root of the heads' width in the same pass."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=width**-0.5)
