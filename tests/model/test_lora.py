"""Low-rank adapters: they are initialised to zero, and merged weights compute the same."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from blip.checkpoint.load import random_tiny
from blip.model.blip import BlipModel
from blip.model.lora import NAMES, Lora, LoraLinear, add_lora, merged_state
from blip_lite.config import Family
from blip_lite.errors import ConfigError

EVERYWHERE = Lora(rank=3, alpha=6.0, targets=("*.q", "*.k", "*.v", "*.out", "*.fc1", "*.fc2", "*.fc"))


def adapted(family: Family, lora: Lora) -> BlipModel:
    """A model with adapters that are not zero."""
    model = random_tiny(family).model
    torch.manual_seed(0)
    add_lora(model, lora)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            torch.nn.init.normal_(module.lora_b, std=0.1)
    return model


@torch.no_grad()
def outputs(model: BlipModel) -> list[torch.Tensor]:
    torch.manual_seed(1)
    pixels, ids = torch.randn(2, 3, 32, 32), torch.randint(1000, 2000, (2, 5))
    embeds = model.encode_image(pixels)
    results = [embeds]
    if model.config.family == "nlvr":
        return [*results, model.reason(ids, None, embeds, embeds.flip(0))]
    source = embeds
    if hasattr(model, "encoder"):
        source = model.fuse(ids, None, embeds)
        results.append(source)
    if hasattr(model, "decoder"):
        results.append(model.decode(ids, None, source if model.config.family == "vqa" else embeds))
    return results


def test_adapters_do_not_change_the_model_at_first() -> None:
    model = random_tiny("pretrain").model
    before = outputs(model)
    add_lora(model, EVERYWHERE)
    for ours, theirs in zip(outputs(model), before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", get_args(Family))
def test_merged_weights_compute_the_same(family: Family) -> None:
    model = adapted(family, EVERYWHERE)
    plain = random_tiny(family).model
    before = outputs(plain)
    plain.load_state_dict(merged_state(model), strict=True)
    for ours, theirs, old in zip(outputs(plain), outputs(model), before, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert (ours - old).abs().max() > 1e-3


def test_by_default_queries_and_values_of_all_attentions_have_adapters() -> None:
    model = adapted("pretrain", Lora())
    names = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    assert {name.rpartition(".")[2] for name in names} == {"q", "v"}
    assert len(names) == 2 * (2 + 2 * 3)  # two blocks: vision; self-attention twice and shared cross-attention


def test_a_layer_that_two_parts_share_stays_shared() -> None:
    model = adapted("pretrain", Lora(targets=("*.cross.q",)))
    for ours, theirs in zip(model.encoder.blocks, model.decoder.blocks, strict=True):
        assert ours.cross.q is theirs.cross.q
        assert isinstance(ours.cross.q, LoraLinear)
    assert len([name for name, _ in model.named_parameters() if name.endswith(NAMES)]) == 2 * 2


def test_frozen_parts_have_no_adapters() -> None:
    model = random_tiny("caption").model
    add_lora(model, Lora(), skip=("vision.",))
    assert not any(isinstance(module, LoraLinear) for module in model.vision.modules())
    assert any(isinstance(module, LoraLinear) for module in model.decoder.modules())


def test_targets_without_match_and_invalid_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora\.targets \*\.query: match no trainable linear layer"):
        add_lora(random_tiny("caption").model, Lora(targets=("*.query",)))
    with pytest.raises(ConfigError, match=r"lora\.rank 0: must be 1 or more"):
        Lora(rank=0)
