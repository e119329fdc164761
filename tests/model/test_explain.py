"""Maps of captions and answers against plain autograd; those of matches are compared with the original's elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import blip
from blip.model.blip import BlipModel
from blip.model.explain import Method, answer_maps, caption_maps, match_maps, which
from blip.model.layers import Attention
from blip.model.rollout import rollout
from blip_lite.config import random_tiny_config
from blip_lite.errors import ConfigError

CAPTION = torch.tensor([[30522, 1037, 3861, 1997, 1037, 4937, 102]])  # [DEC] a picture of a cat [SEP]
QUESTION, ANSWER = torch.tensor([[30523, 2054, 2003, 2009, 102]]), torch.tensor([[30522, 1037, 4937, 102]])
METHODS: tuple[Method, ...] = ("gradcam", "attention", "rollout")


def network(family: Any) -> BlipModel:
    """Random weights, large enough for attentions that differ from place to place."""
    torch.manual_seed(0)
    model = BlipModel(random_tiny_config(family)).eval().double()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def states() -> Tensor:
    return torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1)).double()


def by_softmax(model: BlipModel, attention: Attention) -> list[Tensor]:
    """Replaces an attention by the plain formula; its probabilities end up in the list."""
    seen: list[Tensor] = []

    def plain(module: Attention, inputs: tuple[Any, ...], _: Tensor) -> Tensor:
        x, (keys, values) = inputs[:2]
        scores = module.heads(module.q(x)) @ keys.transpose(2, 3) / (x.shape[-1] / module.num_heads) ** 0.5
        seen.append(scores.softmax(dim=-1))
        seen[-1].retain_grad()
        return module.out((seen[-1] @ values).transpose(1, 2).flatten(2))

    attention.register_forward_hook(plain)
    return seen


def cam(attention: Tensor, gradient: Tensor) -> Tensor:
    return (attention * gradient.clamp(min=0)).mean(dim=1)[..., 1:].unflatten(-1, (2, 2))


def test_a_captions_maps_are_those_of_plain_autograd() -> None:
    model = network("caption")
    found = caption_maps(model, CAPTION, 4, states(), layer=0)
    explicit = copy.deepcopy(model)
    seen = by_softmax(explicit, explicit.decoder.blocks[0].cross)
    for i in range(3):  # each token by itself: a, cat, [SEP]
        logits = explicit.decode(CAPTION[:, :-1], None, states())
        chance = logits.log_softmax(dim=-1)[0, 3 + i, CAPTION[0, 4 + i]]
        chance.backward()
        assert seen[i].grad is not None
        assert_close(found.maps[i], cam(seen[i].detach(), seen[i].grad)[0, 3 + i])
        assert_close(found.scores[i], chance.detach())
    assert found.maps.max() > 0


def test_an_answers_maps_are_those_of_plain_autograd_through_the_question() -> None:
    model = network("vqa")
    found = answer_maps(model, QUESTION, ANSWER, states(), layer=0)
    explicit = copy.deepcopy(model)
    seen = by_softmax(explicit, explicit.encoder.blocks[0].cross)
    for i in range(3):
        logits = explicit.decode(ANSWER[:, :-1], None, explicit.fuse(QUESTION, None, states()))
        chance = logits.log_softmax(dim=-1)[0, i, ANSWER[0, 1 + i]]
        chance.backward()
        assert seen[i].grad is not None
        assert_close(found.maps[i], cam(seen[i].detach(), seen[i].grad)[0].mean(dim=0))
        assert_close(found.scores[i], chance.detach())
    assert found.maps.max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_later_words_do_not_change_the_maps_of_earlier_ones(method: Method) -> None:
    model = network("caption")
    whole = caption_maps(model, CAPTION, 1, states(), method)
    part = caption_maps(model, CAPTION[:, :4], 1, states(), method)
    assert_close(whole.maps[:3], part.maps)


@pytest.mark.parametrize("method", METHODS[1:])
def test_attention_and_rollout_are_shares_of_the_image(method: Method) -> None:
    for found in (
        caption_maps(network("caption"), CAPTION, 1, states(), method),
        match_maps(network("retrieval"), QUESTION, states(), method),
        answer_maps(network("vqa"), QUESTION, ANSWER, states(), method),
    ):
        sums = found.maps.sum(dim=(1, 2))
        assert (found.maps >= 0).all() and (sums > 0).all() and (sums < 1).all()


def test_rollout_by_hand() -> None:
    own, image = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert_close(rollout([image]), image[0])
    assert_close(rollout([own, image]), image[0] / 2)
    # the second token's half of the first layer is a quarter the first token's place and three quarters its own
    second = torch.tensor([[0.25, 0.0], [0.0625, 0.1875]]) + image[0] / 2
    assert_close(rollout([own, image, own, image]), second)


def test_the_scores_are_those_of_every_method() -> None:
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
    for count, wanted in ((1, 0), (2, 0), (3, 1), (4, 2), (12, 6)):
        text = network("caption").decoder
        text.blocks = torch.nn.ModuleList([text.blocks[0]] * count)
        assert which(text, None) == wanted
        assert which(text, None, "rollout") == count - 1


def test_a_wrong_layer_or_method_is_named() -> None:
    with pytest.raises(ConfigError, match=r"layer 2: must be from 0 to 1"):
        caption_maps(network("caption"), CAPTION, 1, states(), layer=2)
    with pytest.raises(ConfigError, match=r"method 'saliency': must be one of gradcam, attention, rollout"):
        match_maps(network("retrieval"), QUESTION, states(), "saliency")  # type: ignore[arg-type]


def test_watching_leaves_no_hooks_behind() -> None:
    model = network("vqa")
    for method in METHODS:
        answer_maps(model, QUESTION, ANSWER, states(), method)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_shuffled_weights_destroy_the_map() -> None:
    """The sanity check of Adebayo et al. 2018: a map that survives it shows the photo, not the model."""
    model = blip.load("tiny")
    before = model.explain("examples/chelsea.png", "a cat sitting on a table")
    generator = torch.Generator().manual_seed(0)
    for block in model.module.encoder.blocks:
        for parameter in block.cross.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.data = parameter.data.flatten()[order].view_as(parameter)
    after = model.explain("examples/chelsea.png", "a cat sitting on a table")
    pair = torch.stack([torch.from_numpy(found.map_of("cat")).flatten() for found in (before, after)])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.4
