from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from blip.checkpoint import adapt, state_dict
from blip.model.blip import BlipModel
from blip_lite.config import Family, published_config, with_image_size
from blip_lite.errors import CheckpointMismatch
from tests.checkpoint.test_state_dict import key_list
from tests.oracle_files import oracle_config, values, weights


def pretrained() -> dict[str, torch.Tensor]:
    return state_dict.to_blip(weights("pretrain"), oracle_config("pretrain"), "original")[0]


@pytest.mark.parametrize("family", ["caption", "retrieval", "features"])
def test_pretrained_weights_complete_other_families(family: Family) -> None:
    adapted = adapt.for_family(pretrained(), oracle_config("pretrain"), oracle_config(family))
    assert adapted.random == () and adapted.dropped
    assert set(adapted.state) == set(adapt.expected_shapes(oracle_config(family)))


def test_pretrained_base_weights_complete_vqa() -> None:
    state = state_dict.to_blip(key_list("pretrain_base"), published_config("pretrain"), "original")[0]
    small = with_image_size(published_config("vqa"), 224)
    assert adapt.for_family(state, published_config("pretrain"), small).random == ()


def test_pretrained_large_weights_leave_vqa_decoder_keys_and_values_random() -> None:
    # original: (768, 1024) and (768, 768) in 12 layers, dropped without a message
    state = state_dict.to_blip(key_list("pretrain_large"), published_config("pretrain", "large"), "original")[0]
    target = with_image_size(published_config("vqa", "large"), 224)
    adapted = adapt.for_family(state, published_config("pretrain", "large"), target)
    assert len(adapted.random) == 24
    assert all(adapt.MAY_DIFFER.fullmatch(name) for name in adapted.random)


def test_nlvr_copies_one_cross_attention_to_both() -> None:
    state = state_dict.to_blip(key_list("pretrain_base"), published_config("pretrain"), "original")[0]
    target = with_image_size(published_config("nlvr"), 224)
    adapted = adapt.for_family(state, published_config("pretrain"), target)
    assert {name.split(".")[0] for name in adapted.random if "cross_merge" not in name} == {"nlvr_head"}
    assert sum("cross_merge" in name for name in adapted.random) == 12  # weight and bias of layers 6 to 11
    dual = adapt.nlvr_from_pretrained(pretrained())
    name = "encoder.blocks.1.cross.{}k.weight"
    assert torch.equal(dual[name.format("0.")], dual[name.format("1.")])
    assert torch.equal(dual[name.format("0.")], pretrained()[name.format("")])


def test_position_embeddings_are_resized_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        resized = adapt.resize_positions(pretrained(), with_image_size(oracle_config("caption"), 96))
    assert resized["vision.pos_embed"].shape == (1, 37, 48)
    assert "resized from 17 to 37 tokens" in caplog.text


def test_other_widths_are_refused() -> None:
    with pytest.raises(CheckpointMismatch, match=r"vision.cls_token: \[1, 1, 48\] in the pretrain weights"):
        adapt.for_family(pretrained(), oracle_config("pretrain"), with_image_size(published_config("caption"), 64))


def test_nlvr_uses_the_same_source_for_each_weight_as_the_original() -> None:
    notes = values("nlvr")
    before = replace(oracle_config("retrieval"), text=oracle_config("nlvr").text)
    torch.manual_seed(0)
    state = BlipModel(before).state_dict()
    theirs = state_dict.from_blip(state, before, "original")
    target = oracle_config("nlvr")
    adapted = adapt.for_family(state, before, target)
    shapes = adapt.expected_shapes(target)
    filled = adapted.state | {name: torch.full(shapes[name], torch.nan) for name in adapted.random}
    converted = state_dict.from_blip(filled, target, "original")
    assert set(converted) == set(notes["init.origin"])
    for name, origin in notes["init.origin"].items():
        assert converted[name].isnan().all() if origin is None else torch.equal(converted[name], theirs[origin]), name
    assert {name for name, tensor in converted.items() if tensor.isnan().any()} == set(notes["init.missing_keys"])
    assert "temperature" in adapted.dropped and "temp" in notes["init.unexpected_keys"]


def test_pretraining_ties_the_modules_that_the_original_ties() -> None:
    model = BlipModel(oracle_config("pretrain"))
    state = state_dict.from_blip(model.state_dict(), model.config, "original")
    tied = {
        name.removeprefix("text_encoder").removesuffix(".weight").replace(".", "/")
        for name, tensor in state.items()
        if name.startswith("text_encoder.")
        and name.endswith(".weight")
        and tensor.data_ptr() == state[name.replace("text_encoder.", "text_decoder.bert.")].data_ptr()
    }
    assert tied == {line.removesuffix(" is tied") for line in values("pretrain")["tied"]}
    # trainable parameters: each shared tensor once, under one of its names
    names: dict[object, set[str]] = {}
    for name, tensor in state.items():
        if tensor.is_floating_point() and "_m." not in name and not name.endswith("_queue"):
            # momentum copies and queues are not trained; fused tensors are new, so only their name identifies them
            names.setdefault(name if ".qkv." in name else tensor.data_ptr(), set()).add(name)
    trainable = set(values("pretrain")["trainable"])
    assert len(names) == len(trainable)
    assert all(len(same & trainable) == 1 for same in names.values())
