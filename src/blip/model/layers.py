"""Attention, MLP and drop path: the layers that the image and the text side share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KV = tuple[Tensor, Tensor]  # keys and values, each [B, H, N, d]


class Attention(nn.Module):
    """Multi-head attention over x itself or over another sequence of width `source_width`.

    Keys and values come from `keys_values`, so that those of an image are computed once and serve every
    text, beam and step. No cache inside: the caller keeps what is worth keeping.
    """

    def __init__(self, width: int, num_heads: int, source_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = (nn.Linear(source_width or width, width) for _ in "kv")

    def heads(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, H, T, d]"""
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)

    def keys_values(self, source: Tensor) -> KV:
        """source [B, N, C] -> keys and values [B, H, N, d]."""
        return self.heads(self.k(source)), self.heads(self.v(source))

    def forward(self, x: Tensor, kv: KV, mask: Tensor | None = None) -> Tensor:
        """x [B, T, D]; mask broadcastable to [B, H, T, N], True = look. Returns [B, T, D]."""
        queries = self.heads(self.q(x))
        if self.training and x.device.type == "cpu":
            y = self._plain(queries, kv, mask)
        else:
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(queries, *kv, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def _plain(self, queries: Tensor, kv: KV, mask: Tensor | None) -> Tensor:
        """The same in four operations: on a CPU the fused kernel's backward takes twenty times as long as these."""
        scores = queries @ kv[0].transpose(2, 3) / queries.shape[-1] ** 0.5  # original: divides too
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return F.dropout(scores.softmax(dim=-1).to(kv[1].dtype), self.dropout) @ kv[1]


class MLP(nn.Module):
    """Two linear layers with the exact (erf) GELU between."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample with probability `rate` while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (len(x),) + (1,) * (x.dim() - 1)
        return x * torch.floor(keep + torch.rand(shape, dtype=x.dtype, device=x.device)) / keep
