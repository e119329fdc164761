"""Maps of matches against Grad-CAM recorded from LAVIS's code; maps of captions and answers against plain autograd."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import blip
import blip_lite
from blip.heatmaps.methods import (
    AttentionRecord,
    Method,
    answer_maps,
    caption_maps,
    match_maps,
    record_match,
    resolve_layer,
    rollout,
    weight_by_gradient,
)
from blip.model.blip import BlipModel
from blip.model.layers import Attention
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.config import random_tiny_config
from blip_lite.errors import ConfigError, MissingPart
from blip_lite.tokenizer import First
from tests.oracle_files import oracle_config, oracle_model, tensors, values

HIDDEN = {"atol": 2e-5, "rtol": 1e-5}
CAPTION = torch.tensor([[30522, 1037, 3861, 1997, 1037, 4937, 102]])  # [DEC] a picture of a cat [SEP]
QUESTION, ANSWER = torch.tensor([[30523, 2054, 2003, 2009, 102]]), torch.tensor([[30522, 1037, 4937, 102]])
METHODS: tuple[Method, ...] = ("gradcam", "attention", "rollout")


# Matches -------------------------------------------------------------------------------------------------------------


@cache
def retrieval() -> BlipModel:
    return oracle_model("retrieval")


def pairs(first: First, count: int, width: int | None = None) -> tuple[Encoded, Tensor]:
    """The first captions and states of the first images."""
    vocab = blip_lite.ASSETS / "bert-base-uncased-vocab.txt"
    tokenizer = Tokenizer(vocab.read_text(encoding="utf-8").splitlines()[:4000], oracle_config("vqa").text)
    padding = "longest" if width is None else "max_length"
    encoded = tokenizer.encode(values("inputs")["captions"][:count], first=first, max_length=width, padding=padding)  # type: ignore[arg-type]
    with torch.no_grad():
        return encoded, retrieval().encode_image(tensors("inputs")["images"][:count])


def relative(expected: Tensor) -> dict[str, float]:
    """Tolerance for gradients: 1e-4 of the largest entry."""
    return {"atol": 1e-4 * float(expected.abs().max()), "rtol": 0.0}


def lavis_gradcam(record: AttentionRecord, mask: Tensor, grid: int) -> Tensor:
    """Maps as LAVIS stacks them, [R, T + 1, g, g]: first token, mean over the words, other tokens; padding is 0."""
    maps = weight_by_gradient(record, grid) * mask[..., None, None]
    words = [maps[row, 1 : int(length) - 1] for row, length in enumerate(mask.sum(dim=1))]  # without [ENC] and [SEP]
    mean = torch.stack([x.mean(dim=0) for x in words])
    return torch.cat([maps[:, :1], mean[:, None], maps[:, 1:]], dim=1)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("first", ["cls", "enc"])
def test_grad_cam_equals_the_original(layer: int, first: First) -> None:
    case = f"block{layer}_{first}."
    recorded = {name.removeprefix(case): x for name, x in tensors("gradcam").items() if name.startswith(case)}
    (ids, mask), embeds = pairs(first, 1)
    record = record_match(retrieval(), ids, mask, embeds, layer)
    assert_close(record.scores, recorded["itm_logits"], **HIDDEN)
    assert_close(record.attention, recorded["attention"], **HIDDEN)
    assert_close(record.gradient, recorded["gradient"], **relative(recorded["gradient"]))
    assert_close(lavis_gradcam(record, mask, 4), recorded["gradcam"], **relative(recorded["gradcam"]))


def test_grad_cam_of_a_padded_batch_equals_the_original() -> None:
    recorded = tensors("gradcam")
    (ids, mask), embeds = pairs("enc", 2, width=35)
    record = record_match(retrieval(), ids, mask, embeds)  # the middle layer of four
    maps, expected = lavis_gradcam(record, mask, 4), recorded["batch_block2_enc.gradcam"]
    assert_close(record.scores, recorded["batch_block2_enc.itm_logits"], **HIDDEN)
    assert_close(maps, expected, **relative(expected))
    assert not maps[:, 1:][mask == 0][1:].any()


def test_maps_of_a_match_are_its_grad_cam() -> None:
    (ids, _), embeds = pairs("enc", 1)
    record, maps = record_match(retrieval(), ids, None, embeds), match_maps(retrieval(), ids, embeds)
    assert_close(maps.maps, weight_by_gradient(record, 4)[0])
    assert_close(maps.scores, record.scores.softmax(dim=1)[:, 1])


def test_gradients_of_attention_are_those_of_the_explicit_softmax() -> None:
    """Compared with autograd through probabilities: two texts per image, inference mode, frozen weights."""
    model = oracle_model("retrieval").double().requires_grad_(False)
    (ids, mask), embeds = pairs("enc", 4)
    embeds = embeds[:2].double()
    with torch.inference_mode():
        record = record_match(model, ids.clone(), mask.bool(), embeds.clone(), 1)
    probabilities: list[Tensor] = []

    def explicit(attention: Attention, inputs: tuple[Tensor, tuple[Tensor, Tensor]], _: Tensor) -> Tensor:
        (x, (keys, values_)) = inputs[:2]
        scores = attention.heads(attention.q(x)) @ keys.transpose(2, 3) / (x.shape[-1] / attention.num_heads) ** 0.5
        probabilities.append(scores.softmax(dim=-1).requires_grad_())
        return attention.out((probabilities[0] @ values_).transpose(1, 2).flatten(2))

    hook = model.encoder.blocks[1].cross_attentions[0].register_forward_hook(explicit)
    logits = model.match_logits(model.fuse(ids, mask, embeds.repeat_interleave(2, 0)))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), probabilities)
    hook.remove()
    assert_close(record.scores, logits.detach())
    assert_close(record.attention, probabilities[0].detach())
    assert_close(record.gradient, gradient)


def test_recording_leaves_no_hooks_and_no_gradients() -> None:
    model, ((ids, mask), embeds) = retrieval(), pairs("enc", 1)
    with pytest.raises(ConfigError, match=r"layer 4: must be from 0 to 3"):
        record_match(model, ids, mask, embeds, 4)
    with pytest.raises(RuntimeError, match="invalid for input"):
        record_match(model, ids, mask, embeds[0], 1)  # without a batch dimension
    assert not record_match(model, ids, mask, embeds, 1).attention.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_an_itm_head_has_no_maps_of_a_match() -> None:
    model = BlipModel(random_tiny_config("vqa"))
    with pytest.raises(MissingPart, match="has no itm_head"):
        record_match(model, torch.zeros(1, 3, dtype=torch.long), None, torch.zeros(1, 5, 32))


def test_class_tokens_of_a_stem_have_no_position_in_a_map() -> None:
    torch.manual_seed(0)
    attention, mask = torch.rand(1, 2, 4, 1 + 9 + 3), torch.tensor([[1, 1, 1, 0]])
    maps = lavis_gradcam(AttentionRecord(torch.zeros(1, 2), attention, torch.ones_like(attention)), mask, 3)
    assert maps.shape == (1, 5, 3, 3)
    by_hand = attention[0, :, :, 1:10].mean(dim=0).view(4, 3, 3)
    assert_close(maps[0, 0], by_hand[0])
    assert_close(maps[0, 1], by_hand[1])  # the one word between the first token and [SEP]
    assert_close(maps[0, 2:4], by_hand[1:3])
    assert not maps[0, 4].any()


# Captions and answers ------------------------------------------------------------------------------------------------


def network(family: Any) -> BlipModel:
    """Random weights, scaled up so that attention differs between positions."""
    torch.manual_seed(0)
    model = BlipModel(random_tiny_config(family)).eval().double()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def states() -> Tensor:
    return torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1)).double()


def by_softmax(model: BlipModel, attention: Attention) -> list[Tensor]:
    """Replace an attention by the plain formula; its probabilities are appended to the list."""
    probabilities: list[Tensor] = []

    def plain(module: Attention, inputs: tuple[Any, ...], _: Tensor) -> Tensor:
        x, (keys, values) = inputs[:2]
        scores = module.heads(module.q(x)) @ keys.transpose(2, 3) / (x.shape[-1] / module.num_heads) ** 0.5
        probabilities.append(scores.softmax(dim=-1))
        probabilities[-1].retain_grad()
        return module.out((probabilities[-1] @ values).transpose(1, 2).flatten(2))

    attention.register_forward_hook(plain)
    return probabilities


def cam(attention: Tensor, gradient: Tensor) -> Tensor:
    return (attention * gradient.clamp(min=0)).mean(dim=1)[..., 1:].unflatten(-1, (2, 2))


def test_maps_of_a_caption_are_those_of_plain_autograd() -> None:
    model = network("caption")
    maps = caption_maps(model, CAPTION, 4, states(), layer=0)
    explicit = copy.deepcopy(model)
    attention = by_softmax(explicit, explicit.decoder.blocks[0].cross_attentions[0])
    for i in range(3):  # each token separately: a, cat, [SEP]
        logits = explicit.decode(CAPTION[:, :-1], None, states())
        log_prob = logits.log_softmax(dim=-1)[0, 3 + i, CAPTION[0, 4 + i]]
        log_prob.backward()
        gradient = attention[i].grad
        assert gradient is not None
        assert_close(maps.maps[i], cam(attention[i].detach(), gradient)[0, 3 + i])
        assert_close(maps.scores[i], log_prob.detach())
    assert maps.maps.max() > 0


def test_maps_of_an_answer_are_those_of_plain_autograd_through_the_question() -> None:
    model = network("vqa")
    maps = answer_maps(model, QUESTION, ANSWER, states(), layer=0)
    explicit = copy.deepcopy(model)
    attention = by_softmax(explicit, explicit.encoder.blocks[0].cross_attentions[0])
    for i in range(3):
        logits = explicit.decode(ANSWER[:, :-1], None, explicit.fuse(QUESTION, None, states()))
        log_prob = logits.log_softmax(dim=-1)[0, i, ANSWER[0, 1 + i]]
        log_prob.backward()
        gradient = attention[i].grad
        assert gradient is not None
        assert_close(maps.maps[i], cam(attention[i].detach(), gradient)[0].mean(dim=0))
        assert_close(maps.scores[i], log_prob.detach())
    assert maps.maps.max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_later_words_do_not_change_the_maps_of_earlier_ones(method: Method) -> None:
    model = network("caption")
    whole = caption_maps(model, CAPTION, 1, states(), method)
    part = caption_maps(model, CAPTION[:, :4], 1, states(), method)
    assert_close(whole.maps[:3], part.maps)


@pytest.mark.parametrize("method", METHODS[1:])
def test_attention_and_rollout_are_shares_of_the_image(method: Method) -> None:
    for maps in (
        caption_maps(network("caption"), CAPTION, 1, states(), method).maps,
        match_maps(network("retrieval"), QUESTION, states(), method).maps,
        answer_maps(network("vqa"), QUESTION, ANSWER, states(), method).maps,
    ):
        sums = maps.sum(dim=(1, 2))
        assert (maps >= 0).all() and (sums > 0).all() and (sums < 1).all()


def test_rollout_by_hand() -> None:
    text, image = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert_close(rollout([image]), image[0])
    assert_close(rollout([text, image]), image[0] / 2)
    # the second token's share after the first layer: a quarter of the first token's, three quarters of its own
    second = torch.tensor([[0.25, 0.0], [0.0625, 0.1875]]) + image[0] / 2
    assert_close(rollout([text, image, text, image]), second)


def test_all_methods_return_the_same_scores() -> None:
    for method in METHODS:
        assert_close(
            match_maps(network("retrieval"), QUESTION, states(), method).scores,
            match_maps(network("retrieval"), QUESTION, states()).scores,
        )
        assert_close(
            answer_maps(network("vqa"), QUESTION, ANSWER, states(), method).scores,
            answer_maps(network("vqa"), QUESTION, ANSWER, states()).scores,
        )


def test_the_default_layer_is_the_middle_one_but_not_the_last() -> None:
    for count, expected in ((1, 0), (2, 0), (3, 1), (4, 2), (12, 6)):
        text = network("caption").decoder
        text.blocks = torch.nn.ModuleList([text.blocks[0]] * count)  # type: ignore[assignment]
        assert resolve_layer(text, None) == expected
        assert resolve_layer(text, None, "rollout") == count - 1


def test_errors_name_a_wrong_layer_or_method() -> None:
    with pytest.raises(ConfigError, match=r"layer 2: must be from 0 to 1"):
        caption_maps(network("caption"), CAPTION, 1, states(), layer=2)
    with pytest.raises(ConfigError, match=r"method 'saliency': must be one of gradcam, attention, rollout"):
        match_maps(network("retrieval"), QUESTION, states(), "saliency")  # type: ignore[arg-type]


def test_no_method_leaves_hooks() -> None:
    model = network("vqa")
    for method in METHODS:
        answer_maps(model, QUESTION, ANSWER, states(), method)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_shuffled_weights_destroy_the_map() -> None:
    """Sanity check of Adebayo et al. 2018: a map that survives it shows the photo, not the model."""
    photo, text = "examples/chelsea.png", "a cat sitting on a table"
    before = blip.load("tiny").explain(photo, text).map_of("cat")
    correlations = []
    for seed in range(6):  # one shuffle alone may happen to resemble the model
        model, generator = blip.load("tiny"), torch.Generator().manual_seed(seed)
        for block in model.backend.module.encoder.blocks:
            for parameter in block.cross.parameters():
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.data = parameter.data.flatten()[order].view_as(parameter)
        after = model.explain(photo, text).map_of("cat")
        correlations.append(float(np.corrcoef(before.flatten(), after.flatten())[0, 1]))
    assert abs(np.mean(correlations)) < 0.3 and max(correlations) < 0.6
