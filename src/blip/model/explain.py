"""Where a model looked: maps of the image for the tokens of a match, a caption or an answer.

Grad-CAM of a match is that of LAVIS (compute_gradcam, from ALBEF; blip-spec 5.9); the original has only unused hooks
for it. Captions and answers get the same product, of the gradient of each written token's log-probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from blip.model.attention_hooks import capture_attention, gradients
from blip.model.blip import BlipModel
from blip.model.layers import Attention
from blip.model.losses import at_least_float32
from blip.model.rollout import rollout
from blip.model.text import TextBlock, TextTransformer
from blip_lite.errors import ConfigError

Method = Literal["gradcam", "attention", "rollout"]


@dataclass(frozen=True)
class AttentionRecord:
    """What R pairs looked at in one layer of H heads: T tokens at N image positions, the class token's first."""

    logits: Tensor  # [R, 2], of the match
    attention: Tensor  # [R, H, T, N], sums to 1 over N
    gradient: Tensor  # [R, H, T, N], of the logit of a match by the attention


@dataclass(frozen=True)
class Maps:
    """A map for each of T tokens, [T, g, g], at least 0; `scores`: a chance [1], or log-probabilities [T]."""

    maps: Tensor
    scores: Tensor
    layer: int


def match_attention(
    model: BlipModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_embeds: Tensor,
    layer: int | None = None,
) -> AttentionRecord:
    """Cross-attention of the match of input_ids [R, T] ([ENC] first) with image_embeds [I, N, D]; rows image-major.

    layer: counted from 0; None = the middle one, 6 of 12 (LAVIS's default). Hooks that layer while it runs, so no two
    threads may do this with one model.
    """
    model.require("itm_head")
    with gradients():
        # copies, as tensors of inference mode take no part in a graph
        ids, source = input_ids.clone(), image_embeds.detach().clone()
        mask = None if attention_mask is None else attention_mask.clone()
        with capture_attention([_cross(model.encoder, which(model.encoder, layer))], leaf=True) as (seen,):
            logits = model.match_logits(model.fuse(ids, mask, source))
        (upstream,) = torch.autograd.grad(logits[:, 1].sum(), seen.attended)
    rows = len(input_ids)
    return AttentionRecord(logits.detach(), _by_row(seen.probabilities(), rows), _by_row(seen.gradient(upstream), rows))


def grad_cam(looks: AttentionRecord, attention_mask: Tensor, grid: int) -> Tensor:
    """Maps [R, T + 1, grid, grid]: of the first token, the mean over the words, then of the tokens from 1 on.

    attention_mask [R, T]: words are its ones but for the first and the last token; padded tokens get zeros.
    Attention times its gradient where positive, mean over heads. Not scaled: compare within one pair only.
    """
    maps = _weighted(looks.attention, looks.gradient, grid).flatten(2) * attention_mask[..., None]
    words = attention_mask[:, 1:].clone()
    words.scatter_(1, attention_mask.sum(dim=1, keepdim=True).sub(2).clamp(min=0), 0)  # the last token is [SEP]
    mean = (maps[:, 1:] * words[..., None]).sum(dim=1) / words.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([maps[:, :1], mean[:, None], maps[:, 1:]], dim=1).view(len(maps), -1, grid, grid)


def match_maps(
    model: BlipModel, input_ids: Tensor, image_embeds: Tensor, method: Method = "gradcam", layer: int | None = None
) -> Maps:
    """Of every token of a text [1, T], [ENC] and [SEP] too, and the chance that it matches image_embeds [1, N, D]."""
    model.require("itm_head")
    layer = which(model.encoder, layer, method)
    if method == "gradcam":
        looks = match_attention(model, input_ids, None, image_embeds, layer)
        maps, logits = _weighted(looks.attention, looks.gradient, _grid(model))[0], looks.logits
    else:
        with capture_attention(_reach(model.encoder, layer, method)) as seen:
            logits = model.match_logits(model.fuse(input_ids, None, image_embeds))
        maps = _places(rollout([s.probabilities()[0] for s in seen]), _grid(model))
    return Maps(maps, logits.softmax(dim=-1)[:, 1], layer)


def caption_maps(
    model: BlipModel,
    input_ids: Tensor,
    start: int,
    image_embeds: Tensor,
    method: Method = "gradcam",
    layer: int | None = None,
) -> Maps:
    """Of the tokens from `start` on of a caption [1, T] ([DEC] first), and their log-probabilities.

    A token's map is what the position before it looked at, where the token was chosen.
    """
    layer = which(model.decoder, layer, method)
    if method == "gradcam":
        return _caption_grad_cam(model, input_ids, start, image_embeds, layer)
    with capture_attention(_reach(model.decoder, layer, method)) as seen:
        logits = model.decode(input_ids[:, :-1], None, image_embeds)
    maps = _places(rollout([s.probabilities()[0] for s in seen]), _grid(model))
    return Maps(maps[start - 1 :], _log_chances(logits[0, start - 1 :], input_ids[0, start:]), layer)


def _caption_grad_cam(model: BlipModel, input_ids: Tensor, start: int, image_embeds: Tensor, layer: int) -> Maps:
    with gradients():
        targets, before = _one_row_each(input_ids, start)
        with capture_attention([_cross(model.decoder, layer)], leaf=True) as (seen,):
            states = model.decoder_states(before, None, image_embeds.detach().clone())
        rows = torch.arange(len(before), device=before.device)
        chances = _log_chances(model.decoder.logits(states[rows, rows + start - 1]), targets)
        (upstream,) = torch.autograd.grad(chances.sum(), seen.attended)
    attention, gradient = (_by_row(x, len(rows)) for x in (seen.probabilities(), seen.gradient(upstream)))
    maps = _weighted(attention, gradient, _grid(model))[rows, rows + start - 1]
    return Maps(maps, chances.detach(), layer)


def answer_maps(
    model: BlipModel,
    question_ids: Tensor,
    answer_ids: Tensor,
    image_embeds: Tensor,
    method: Method = "gradcam",
    layer: int | None = None,
) -> Maps:
    """Of the tokens of an answer [1, A] ([DEC] first, has no map) to a question [1, Q], and their log-probabilities.

    The decoder reads the question's states and not the image, so a map is the mean over the question's tokens of what
    they looked at, by the gradient of the answer's token; without gradients the decoder's attention to the question
    weighs what the question looked at.
    """
    layer = which(model.encoder, layer, method)
    if method == "gradcam":
        return _answer_grad_cam(model, question_ids, answer_ids, image_embeds, layer)
    with (
        capture_attention(_reach(model.encoder, layer, method)) as asked,
        capture_attention(_reach(model.decoder, layer, method)) as read,
    ):
        states = model.fuse(question_ids, None, image_embeds)
        logits = model.decode(answer_ids[:, :-1], None, states)
    looked, weights = (rollout([s.probabilities()[0] for s in seen]) for seen in (asked, read))
    return Maps(_places(weights @ looked, _grid(model)), _log_chances(logits[0], answer_ids[0, 1:]), layer)


def _answer_grad_cam(
    model: BlipModel, question_ids: Tensor, answer_ids: Tensor, image_embeds: Tensor, layer: int
) -> Maps:
    with gradients():
        targets, before = _one_row_each(answer_ids, 1)
        questions = question_ids.repeat(len(before), 1)
        with capture_attention([_cross(model.encoder, layer)], leaf=True) as (seen,):
            states = model.fuse(questions, None, image_embeds.detach().clone())
        rows = torch.arange(len(before), device=before.device)
        chances = _log_chances(model.decode(before, None, states)[rows, rows], targets)
        (upstream,) = torch.autograd.grad(chances.sum(), seen.attended)
    attention, gradient = (_by_row(x, len(rows)) for x in (seen.probabilities(), seen.gradient(upstream)))
    return Maps(_weighted(attention, gradient, _grid(model)).mean(dim=1), chances.detach(), layer)


def which(text: TextTransformer, layer: int | None, method: Method = "gradcam") -> int:
    """The layer that a method looks at, from 0: by default the middle one; of rollout, which adds up, the last.

    Of two layers the first: in the last one a match depends on what its first token looked at, on no word's look.
    """
    if method not in get_args(Method):
        raise ConfigError(f"method '{method}': must be one of {', '.join(get_args(Method))}")
    count = len(text.blocks)
    if layer is None:
        return count - 1 if method == "rollout" else min(count // 2, max(0, count - 2))
    if not 0 <= layer < count:
        raise ConfigError(f"layer {layer}: must be from 0 to {count - 1}")
    return layer


def _one_row_each(input_ids: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Tokens from `start` on, and the row before the last token once for each: gradients must not mix."""
    return input_ids[0, start:].clone(), input_ids[:, :-1].repeat(input_ids.shape[1] - start, 1)


def _log_chances(logits: Tensor, targets: Tensor) -> Tensor:
    """[T, V] and ids [T] -> log-probabilities [T]."""
    return at_least_float32(logits).log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]


def _weighted(attention: Tensor, gradient: Tensor, grid: int) -> Tensor:
    """[.., H, T, N] twice -> [.., T, grid, grid]: attention times its gradient where positive, mean over heads."""
    return _places((attention * gradient.clamp(min=0)).mean(dim=-3), grid)


def _places(x: Tensor, grid: int) -> Tensor:
    """[.., N] -> [.., grid, grid]: neither the class token nor a stem's guesses have a place in the photo."""
    return x[..., 1 : 1 + grid * grid].reshape(*x.shape[:-1], grid, grid)


def _grid(model: BlipModel) -> int:
    return model.config.vision.image_size // model.config.vision.patch_size


def _cross(text: TextTransformer, layer: int) -> Attention:
    return cast(Attention, cast(TextBlock, text.blocks[layer]).cross)


def _reach(text: TextTransformer, layer: int, method: Method) -> list[Attention]:
    """The attentions whose probabilities a method without gradients needs, in the order in which they run."""
    if method == "attention":
        return [_cross(text, layer)]
    blocks = [cast(TextBlock, block) for block in text.blocks[: layer + 1]]
    return [attention for block in blocks for attention in (block.attn, cast(Attention, block.cross))]


def _by_row(x: Tensor, rows: int) -> Tensor:
    """[I, H, R/I * T, N] -> [R, H, T, N]"""
    images, heads, _, positions = x.shape
    x = x.view(images, heads, rows // images, -1, positions).transpose(1, 2)
    return x.reshape(rows, heads, -1, positions)
