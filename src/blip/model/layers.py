"""Attention, MLP and drop path: layers shared by the vision and the text transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blip.model.mkldnn_linear import Linear
from blip.model.modules import Module
from blip.model.training_attention import training_attention

KV = tuple[Tensor, Tensor]  # keys and values, each [B, H, N, d]
BLOCK = 1 << 20  # number of scores that `blockwise` computes at a time: they fit in the CPU cache


class Attention(Module):
    """Multi-head attention to x itself or to another sequence of width `source_width`.

    The caller computes keys and values with `keys_values` and passes them in, so that those of an image are computed
    once for all texts, beams and steps.
    """

    def __init__(self, width: int, num_heads: int, source_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.out = Linear(width, width), Linear(width, width)
        self.k, self.v = (Linear(source_width or width, width) for _ in "kv")

    def heads(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, H, T, d]"""
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)

    def keys_values(self, source: Tensor) -> KV:
        """source [B, N, C] -> keys and values [B, H, N, d]."""
        return self.heads(self.k(source)), self.heads(self.v(source))

    def forward(self, x: Tensor, kv: KV, mask: Tensor | None = None) -> Tensor:
        """x [B, T, D]; mask broadcastable to [B, H, T, N], True = attend. Returns [B, T, D]."""
        return self.out(self.attend(self.q(x), kv, mask))

    def attend(self, queries: Tensor, kv: KV, mask: Tensor | None = None) -> Tensor:
        """`forward` between its two projections: queries [B, T, D] -> [B, T, D]."""
        queries = self.heads(queries)
        on_cpu = queries.device.type == "cpu"
        if self.training and on_cpu:
            y = self._in_training(queries, kv, mask)
        elif on_cpu and queries.dtype == torch.bfloat16 and mask is None and not torch.is_grad_enabled():
            y = blockwise(queries, *kv)
        else:
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(queries, *kv, attn_mask=mask, dropout_p=dropout)
        return y.transpose(1, 2).flatten(2)

    def _in_training(self, queries: Tensor, kv: KV, mask: Tensor | None) -> Tensor:
        """Unfused attention: in training on a CPU the fused kernel's backward pass is twenty times slower."""
        if mask is None and not self.dropout and not torch.compiler.is_compiling():
            return training_attention(queries, *kv)
        scores = queries @ kv[0].transpose(2, 3) / queries.shape[-1] ** 0.5  # original: divides too
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return F.dropout(scores.softmax(dim=-1).to(kv[1].dtype), self.dropout) @ kv[1]


def blockwise(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of queries [B, H, T, d] to keys and values [B, H, N, d], in blocks whose scores fit in the CPU cache.

    For bfloat16 on a CPU, where torch's fused kernel is two times slower (seven times with one query). No gradient.
    """
    images, heads, length, width = queries.shape
    keys, values = keys.contiguous().flatten(0, 1).transpose(1, 2), values.contiguous().flatten(0, 1)
    queries = queries.flatten(0, 1)
    step = max(1, BLOCK // (heads * length * keys.shape[2])) * heads
    rows = min(length, max(1, BLOCK // (heads * keys.shape[2])))
    y = torch.empty_like(queries)
    for i in range(0, images * heads, step):
        for j in range(0, length, rows):
            part = queries[i : i + step, j : j + rows]
            scores = torch.baddbmm(part.new_zeros(1, 1, 1), part, keys[i : i + step], beta=0, alpha=width**-0.5)
            y[i : i + step, j : j + rows] = torch.bmm(scores.softmax(dim=-1), values[i : i + step])
    return y.view(images, heads, length, width)


class MLP(Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, mlp_width), Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x, gelu=True))


class DropPath(Module):
    """Stochastic depth: in training drop the residual branch of a sample with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (len(x),) + (1,) * (x.dim() - 1)
        return x * torch.floor(keep + torch.rand(shape, dtype=x.dtype, device=x.device)) / keep
