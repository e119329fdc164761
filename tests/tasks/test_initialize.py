"""Trainable parameters and their learning rates."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from blip.model.lora import NAMES, Lora
from blip.model.momentum import MomentumModel
from blip.tasks.initialize import FineTune, Start, start_model
from blip_lite.errors import ConfigError

TINY = Start(init="random-tiny")


def scales(tune: FineTune, model: nn.Module) -> dict[str, tuple[float, float | None]]:
    """Factor and weight decay of every trained parameter."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: (g.lr_scale, g.weight_decay) for g in tune.groups(model) for p in g.params}


@pytest.mark.parametrize("with_momentum", [False, True])
def test_deeper_layers_learn_more_slowly(with_momentum: bool) -> None:
    tune = FineTune(layer_decay=0.5, rates=(("decoder.*", 0.1),))
    model = tune.prepare(start_model(TINY, "pretrain"))
    result = {
        k.removeprefix("model."): v[0]
        for k, v in scales(tune, MomentumModel(model, 4) if with_momentum else model).items()
    }
    expected = {
        "vision.patch_embed.weight": 0.125,
        "vision.cls_token": 0.125,
        "vision.pos_embed": 0.125,
        "vision.blocks.0.attn.q.weight": 0.25,
        "vision.blocks.1.mlp.fc1.bias": 0.5,
        "vision.norm.weight": 1.0,
        "encoder.blocks.0.attn.q.weight": 0.25,
        "encoder.blocks.1.attn.q.weight": 0.5,
        "decoder.embed.word.weight": 0.0125,
        "decoder.blocks.0.cross.k.weight": 0.025,
        "decoder.lm_head.bias": 0.1,
        "temperature": 1.0,
        "vision_proj.weight": 1.0,
        "itm_head.bias": 1.0,
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert len(result) == len(list(model.parameters()))


def test_norms_biases_and_embeddings_can_do_without_weight_decay() -> None:
    tune = FineTune(no_decay=True)
    result = scales(tune, tune.prepare(start_model(TINY, "pretrain")))
    decayed = {name for name, (_, decay) in result.items() if decay is None}
    assert all(
        name.endswith(".weight") and "norm" not in name and "embed." not in name
        for name in decayed - {"vision.patch_embed.weight"}
    )
    assert {"vision.patch_embed.weight", "vision.blocks.0.attn.q.weight", "decoder.lm_head.fc.weight"} <= decayed
    for name in ("temperature", "vision.cls_token", "vision.pos_embed", "decoder.embed.word.weight", "itm_head.bias"):
        assert result[name][1] == 0.0


def test_with_lora_only_additions_and_what_starts_random_are_trained() -> None:
    tune = FineTune(lora=Lora(rank=2), freeze=("vision.",))
    started = start_model(TINY, "nlvr")
    trained = {name for name, p in tune.prepare(started).named_parameters() if p.requires_grad}
    plain = {name for name in trained if not name.endswith(NAMES)}
    assert plain == set(started.random) and "nlvr_head.fc1.weight" in plain
    assert "encoder.blocks.0.cross.1.q.lora_a" in trained
    assert not any(name.startswith("vision.") for name in trained)


def test_preparing_twice_adds_once() -> None:
    tune, started = FineTune(lora=Lora(rank=2)), start_model(TINY, "caption")
    first = [name for name, _ in tune.prepare(started).named_parameters()]
    assert [name for name, _ in tune.prepare(started).named_parameters()] == first


def test_lora_needs_weights_and_decay_a_share() -> None:
    with pytest.raises(ConfigError, match=r"tune\.lora: needs starting weights"):
        FineTune(lora=Lora()).prepare(replace(start_model(TINY, "caption"), start=Start()))
    with pytest.raises(ConfigError, match=r"tune\.layer_decay 0: must be above 0 and at most 1"):
        FineTune(layer_decay=0)
