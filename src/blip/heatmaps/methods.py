"""Heat-map methods on the network: Grad-CAM, cross-attention and attention rollout, for matches, captions and answers.

Grad-CAM of a match is that of LAVIS (compute_gradcam, from ALBEF; blip-spec 5.9); the original has only unused hooks
for it. Captions and answers use the same product, with the gradient of each token's log-probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from blip.heatmaps.attention_hooks import AttentionHook, capture_attention, enable_gradients
from blip.model.blip import BlipModel
from blip.model.layers import Attention
from blip.model.losses import at_least_float32
from blip.model.text import TextTransformer
from blip_lite.errors import ConfigError
from blip_lite.explanation import Method


@dataclass(frozen=True)
class AttentionRecord:
    """One cross-attention of H heads: R rows of T tokens attend to N image tokens, [CLS] first."""

    scores: Tensor  # [R, ...], output of the forward pass
    attention: Tensor  # [R, H, T, N], sums to 1 over N
    gradient: Tensor  # [R, H, T, N], of each row's objective with respect to the attention


@dataclass(frozen=True)
class Maps:
    """Maps of T tokens, [T, g, g], at least 0. scores: the probability of the match [1], or log-probabilities [T]."""

    maps: Tensor
    scores: Tensor
    layer: int


def match_maps(
    model: BlipModel, input_ids: Tensor, image_embeds: Tensor, method: Method = "gradcam", layer: int | None = None
) -> Maps:
    """Maps of all tokens of a text [1, T] ([ENC] first, [SEP] last) matched with image_embeds [1, N, D]."""
    model.require("itm_head")
    layer = resolve_layer(model.encoder, layer, method)
    if method == "gradcam":
        record = record_match(model, input_ids, None, image_embeds, layer)
        maps, logits = weight_by_gradient(record, grid_size(model))[0], record.scores
    else:
        with capture_attention(_captured(model.encoder, layer, method)) as hooks:
            logits = model.match_logits(model.fuse(input_ids, None, image_embeds))
        maps = _to_grid(_rollout(hooks), grid_size(model))
    return Maps(maps, logits.softmax(dim=-1)[:, 1], layer)


def record_match(
    model: BlipModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_embeds: Tensor,
    layer: int | None = None,
) -> AttentionRecord:
    """Cross-attention of the match of input_ids [R, T] ([ENC] first) with image_embeds [I, N, D]; rows image-major.

    scores: logits [R, 2]; the objective is that of a match. layer: from 0; None = the middle one, 6 of 12 (LAVIS's
    default).
    """
    model.require("itm_head")
    attention = _cross_attention(model.encoder, resolve_layer(model.encoder, layer))

    def forward() -> Tensor:
        mask = None if attention_mask is None else attention_mask.clone()
        return model.match_logits(model.fuse(input_ids.clone(), mask, image_embeds.detach().clone()))

    return _record(attention, forward, lambda logits: logits[:, 1])


def caption_maps(
    model: BlipModel,
    input_ids: Tensor,
    start: int,
    image_embeds: Tensor,
    method: Method = "gradcam",
    layer: int | None = None,
) -> Maps:
    """Maps of the tokens from index `start` on of a caption [1, T] ([DEC] first).

    A token's map is the attention of the position before it, which predicts the token.
    """
    layer = resolve_layer(model.decoder, layer, method)
    if method != "gradcam":
        with capture_attention(_captured(model.decoder, layer, method)) as hooks:
            logits = model.decode(input_ids[:, :-1], None, image_embeds)
        maps = _to_grid(_rollout(hooks), grid_size(model))
        return Maps(maps[start - 1 :], _log_probs(logits[0, start - 1 :], input_ids[0, start:]), layer)

    def forward() -> Tensor:
        targets, previous = _one_row_per_token(input_ids, start)
        states = model.decoder_states(previous, None, image_embeds.detach().clone())
        return _log_probs(model.decoder.logits(_diagonal(states, start - 1)), targets)

    record = _record(_cross_attention(model.decoder, layer), forward)
    return Maps(_diagonal(weight_by_gradient(record, grid_size(model)), start - 1), record.scores, layer)


def answer_maps(
    model: BlipModel,
    question_ids: Tensor,
    answer_ids: Tensor,
    image_embeds: Tensor,
    method: Method = "gradcam",
    layer: int | None = None,
) -> Maps:
    """Maps of the tokens after [DEC] of an answer [1, A] to a question [1, Q].

    The decoder reads the question's states, not the image, so Grad-CAM averages the maps of the question's tokens,
    with the gradient of the answer's token. Without gradients, the decoder's attention to the question weights the
    question's attention to the image.
    """
    layer = resolve_layer(model.encoder, layer, method)
    if method != "gradcam":
        with (
            capture_attention(_captured(model.encoder, layer, method)) as question,
            capture_attention(_captured(model.decoder, layer, method)) as answer,
        ):
            states = model.fuse(question_ids, None, image_embeds)
            logits = model.decode(answer_ids[:, :-1], None, states)
        maps = _to_grid(_rollout(answer) @ _rollout(question), grid_size(model))
        return Maps(maps, _log_probs(logits[0], answer_ids[0, 1:]), layer)

    def forward() -> Tensor:
        targets, previous = _one_row_per_token(answer_ids, 1)
        states = model.fuse(question_ids.repeat(len(previous), 1), None, image_embeds.detach().clone())
        return _log_probs(_diagonal(model.decode(previous, None, states)), targets)

    record = _record(_cross_attention(model.encoder, layer), forward)
    return Maps(weight_by_gradient(record, grid_size(model)).mean(dim=1), record.scores, layer)


def resolve_layer(text: TextTransformer, layer: int | None, method: Method = "gradcam") -> int:
    """Index of the layer that a method uses: by default the middle one, for rollout (which accumulates) the last.

    The default of a two-layer model is the first: in the last layer a match depends on the first token's attention
    only. Raises ConfigError for an unknown method or layer.
    """
    if method not in get_args(Method):
        raise ConfigError(f"method '{method}': must be one of {', '.join(get_args(Method))}")
    count = len(text.blocks)
    if layer is None:
        return count - 1 if method == "rollout" else min(count // 2, max(0, count - 2))
    if not 0 <= layer < count:
        raise ConfigError(f"layer {layer}: must be from 0 to {count - 1}")
    return layer


def weight_by_gradient(record: AttentionRecord, grid: int) -> Tensor:
    """Grad-CAM [R, T, grid, grid]: attention times its positive gradient, averaged over heads."""
    return _to_grid((record.attention * record.gradient.clamp(min=0)).mean(dim=-3), grid)


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Attention rollout [T, N]: shares of N image tokens in each of T text tokens.

    Source: Abnar and Zuidema 2020, with cross-attention added.
    attentions: self-attention [H, T, T] and cross-attention [H, T, N] in turn, in forward order; heads are averaged.
    Each has weight one half, the residual connection around it the other half; MLPs and norms are ignored. Shares of a
    token sum to less than 1, the rest belongs to the text. A single cross-attention is returned averaged over heads.
    """
    means = [attention.mean(dim=0) for attention in attentions]
    if len(means) == 1:
        return means[0]
    share = torch.zeros_like(means[1])
    for self_attention, cross_attention in zip(means[::2], means[1::2], strict=True):
        share = (share + self_attention @ share) / 2
        share = (share + cross_attention) / 2
    return share


def grid_size(model: BlipModel) -> int:
    """Number of image tokens per side."""
    return model.config.vision.image_size // model.config.vision.patch_size


def _record(
    attention: Attention, forward: Callable[[], Tensor], objective: Callable[[Tensor], Tensor] = lambda scores: scores
) -> AttentionRecord:
    """Run `forward` ([R, ...]) with gradients enabled and record the attention and the gradient of the objective [R].

    `forward` must clone its inputs, since tensors of inference mode take no part in a graph.
    """
    with enable_gradients():
        with capture_attention([attention], leaf=True) as (hook,):
            scores = forward()
        (upstream,) = torch.autograd.grad(objective(scores).sum(), hook.attended)
    rows = len(scores)
    return AttentionRecord(scores.detach(), _by_row(hook.probabilities(), rows), _by_row(hook.gradient(upstream), rows))


def _rollout(hooks: Sequence[AttentionHook]) -> Tensor:
    return rollout([hook.probabilities()[0] for hook in hooks])


def _one_row_per_token(input_ids: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Tokens from `start` on, and one copy of the previous ids for each of them, so that gradients do not mix."""
    return input_ids[0, start:].clone(), input_ids[:, :-1].repeat(input_ids.shape[1] - start, 1)


def _diagonal(x: Tensor, offset: int = 0) -> Tensor:
    """x [R, T, ...] -> position `offset` + i of each row i, [R, ...]."""
    rows = torch.arange(len(x), device=x.device)
    return x[rows, rows + offset]


def _log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [T, V] and ids [T] -> log-probabilities [T]."""
    return at_least_float32(logits).log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]


def _to_grid(x: Tensor, grid: int) -> Tensor:
    """[.., N] -> [.., grid, grid], without [CLS] and the stem's class tokens, which have no position in the image."""
    return x[..., 1 : 1 + grid * grid].reshape(*x.shape[:-1], grid, grid)


def _cross_attention(text: TextTransformer, layer: int) -> Attention:
    return text.blocks[layer].cross_attentions[0]


def _captured(text: TextTransformer, layer: int, method: Method) -> list[Attention]:
    """Attentions that a method without gradients needs, in forward order."""
    if method == "attention":
        return [_cross_attention(text, layer)]
    return [
        attention for block in list(text.blocks)[: layer + 1] for attention in (block.attn, *block.cross_attentions)
    ]


def _by_row(x: Tensor, rows: int) -> Tensor:
    """[I, H, R/I * T, N] -> [R, H, T, N]"""
    images, heads, _, positions = x.shape
    x = x.view(images, heads, rows // images, -1, positions).transpose(1, 2)
    return x.reshape(rows, heads, -1, positions)
