"""Where a model looked: one layer's cross-attention, its gradient, and Grad-CAM from both (blip-spec 5.9).

The original has only unused hooks for this; the formula is that of LAVIS (compute_gradcam, from ALBEF).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from blip.errors import ConfigError
from blip.model.blip import BlipModel
from blip.model.layers import Attention
from blip.model.losses import at_least_float32
from blip.model.text import TextBlock, TextTransformer


@dataclass(frozen=True)
class Looks:
    """What R pairs looked at in one layer of H heads: T tokens at N image positions, the class token's first."""

    logits: Tensor  # [R, 2], of the match
    attention: Tensor  # [R, H, T, N], sums to 1 over N
    gradient: Tensor  # [R, H, T, N], of the logit of a match by the attention


def match_looks(
    model: BlipModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_embeds: Tensor,
    layer: int | None = None,
) -> Looks:
    """Cross-attention of the match of input_ids [R, T] ([ENC] first) with image_embeds [I, N, D]; rows image-major.

    layer: counted from 0; None = the middle one, 6 of 12 (LAVIS's default). Hooks that layer while it runs, so no two
    threads may do this with one model.
    """
    model.require("itm_head")
    with torch.inference_mode(False), torch.enable_grad():
        # copies, as tensors of inference mode take no part in a graph
        ids, source = input_ids.clone(), image_embeds.detach().clone()
        mask = None if attention_mask is None else attention_mask.clone()
        with _recorded(_cross_attention(model.encoder, layer)) as seen:
            logits = model.match_logits(model.fuse(ids, mask, source))
        (upstream,) = torch.autograd.grad(logits[:, 1].sum(), seen.attended)
    attention, gradient = seen.attention_and_gradient(upstream)
    return Looks(logits.detach(), _by_row(attention, len(input_ids)), _by_row(gradient, len(input_ids)))


def grad_cam(looks: Looks, attention_mask: Tensor, grid: int) -> Tensor:
    """Maps [R, T + 1, grid, grid]: of the first token, the mean over the words, then of the tokens from 1 on.

    attention_mask [R, T]: words are its ones but for the first and the last token; padded tokens get zeros.
    Attention times its gradient where positive, mean over heads. Not scaled: compare within one pair only.
    """
    patches = slice(1, 1 + grid * grid)  # neither the class token nor a stem's guesses have a place in the photo
    weighted = looks.attention[..., patches] * looks.gradient[..., patches].clamp(min=0)
    maps = weighted.mean(dim=1) * attention_mask[..., None]  # [R, T, grid * grid]
    words = attention_mask[:, 1:].clone()
    words.scatter_(1, attention_mask.sum(dim=1, keepdim=True).sub(2).clamp(min=0), 0)  # the last token is [SEP]
    mean = (maps[:, 1:] * words[..., None]).sum(dim=1) / words.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([maps[:, :1], mean[:, None], maps[:, 1:]], dim=1).view(len(maps), -1, grid, grid)


class _Seen:
    """What passed through one attention: its input, its keys and values, its result before the last linear layer."""

    def __init__(self, attention: Attention) -> None:
        self.module = attention
        self.queries: Tensor
        self.keys: Tensor
        self.values: Tensor
        self.attended: Tensor

    def enter(self, _module: Any, inputs: tuple[Any, ...]) -> None:
        x, (self.keys, self.values) = inputs[0], inputs[1]
        self.queries = self.module.heads(self.module.q(x))

    def leave(self, _module: Any, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        """Makes the result a leaf: the backward pass ends here and needs no gradient of any weight."""
        self.attended = inputs[0].detach().requires_grad_()
        return (self.attended,)

    def attention_and_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and their gradients [I, H, .., N], from the gradient [I, .., D] of the attended values.

        A fused kernel keeps no probabilities; with A @ V attended, the gradient of A is that of the result @ V^T.
        """
        queries, keys, values, upstream = (
            at_least_float32(x.detach()) for x in (self.queries, self.keys, self.values, self.module.heads(upstream))
        )
        scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
        return scores.softmax(dim=-1), upstream @ values.transpose(2, 3)


@contextmanager
def _recorded(attention: Attention) -> Iterator[_Seen]:
    seen = _Seen(attention)
    hooks = [
        attention.register_forward_pre_hook(seen.enter),
        attention.out.register_forward_pre_hook(seen.leave),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _cross_attention(text: TextTransformer, layer: int | None) -> Attention:
    count = len(text.blocks)
    layer = count // 2 if layer is None else layer
    if not 0 <= layer < count:
        raise ConfigError(f"layer {layer}: must be from 0 to {count - 1}")
    return cast(Attention, cast(TextBlock, text.blocks[layer]).cross)


def _by_row(x: Tensor, rows: int) -> Tensor:
    """[I, H, R/I * T, N] -> [R, H, T, N]"""
    images, heads, _, positions = x.shape
    x = x.view(images, heads, rows // images, -1, positions).transpose(1, 2)
    return x.reshape(rows, heads, -1, positions)
