"""Names and shapes compared with lists recorded from the original's and Transformers' classes at real size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from blip.checkpoint import adapt, infer, state_dict
from blip.checkpoint.tables import can_export_to
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, Family, VisionConfig, published_config, random_tiny_config
from blip_lite.errors import CheckpointMismatch, ConfigError
from tests.oracle_files import oracle_config, values, weights

FAMILY_OF: dict[str, Family] = {
    "base": "features",
    "decoder": "caption",
    "itm": "retrieval",
    "retrieval": "retrieval",
    "vqa": "vqa",
    "nlvr": "nlvr",
    "pretrain": "pretrain",
}
LISTS = [f"{name}_{size}" for name in FAMILY_OF for size in ("base", "large")]
HF_LISTS = {"hf_caption": "caption", "hf_vqa": "vqa", "hf_itm": "retrieval", "hf_model": "features"}


def key_list(name: str) -> dict[str, Tensor]:
    """A real-size state without memory."""
    shapes = values(f"keys/{name}")["keys"]
    return {
        key: torch.empty([n for n in shape if n != "int64"], device="meta", dtype=_dtype(shape))
        for key, shape in shapes.items()
    }


def _dtype(shape: list[int | str]) -> torch.dtype:
    return torch.int64 if "int64" in shape else torch.float32


def published(name: str) -> BlipConfig:
    family, size = name.split("_")
    return published_config(FAMILY_OF[family], "large" if size == "large" else "base")


@pytest.mark.parametrize("name", LISTS)
def test_original_file_is_converted_to_names_and_shapes_of_the_model(name: str) -> None:
    config = published(name)
    if name.startswith("itm"):  # the matcher alone, at the size of the retrieval model
        assert config.vision.image_size == 384
    ours, _ = state_dict.to_blip(key_list(name), config, "original")
    assert {key: tensor.shape for key, tensor in ours.items()} == adapt.expected_shapes(config)


@pytest.mark.parametrize("name", LISTS)
def test_original_file_is_written_with_every_name(name: str) -> None:
    state, config = key_list(name), published(name)
    ours, training = state_dict.to_blip(state, config, "original")
    theirs = state_dict.from_blip(ours, config, "original", training)
    if name.startswith("itm"):  # written with all that the training class of the family requires
        state = key_list(name.replace("itm", "retrieval"))
    assert {key: tensor.shape for key, tensor in theirs.items()} == {key: t.shape for key, t in state.items()}


@pytest.mark.parametrize("name", LISTS)
def test_config_of_original_file_is_inferred(name: str) -> None:
    config = infer.infer_config(key_list(name))
    assert config == published(name)


@pytest.mark.parametrize("name", [name for name in LISTS if not name.startswith("itm")])
def test_parameter_count_equals_original(name: str) -> None:
    with torch.device("meta"):
        model = BlipModel(published(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == values("keys/summary_original")[name]["parameters_trainable"]


@pytest.mark.parametrize("name", HF_LISTS)
def test_transformers_file_is_converted_to_names_and_shapes_of_the_model(name: str) -> None:
    config = infer.infer_config(key_list(name))
    assert (config.family, config.vision.image_size) == (HF_LISTS[name], 384)
    ours, training = state_dict.to_blip(key_list(name), config, "hf")
    assert {key: tensor.shape for key, tensor in ours.items()} == adapt.expected_shapes(config)
    assert training == {}


@pytest.mark.parametrize("name", ["hf_caption", "hf_vqa", "hf_itm"])
def test_transformers_file_is_written_with_every_name(name: str) -> None:
    state = key_list(name)
    config = infer.infer_config(state)
    theirs = state_dict.from_blip(state_dict.to_blip(state, config, "hf")[0], config, "hf")
    assert {key: tensor.shape for key, tensor in theirs.items()} == {key: t.shape for key, t in state.items()}


@pytest.mark.parametrize("name", ["decoder", "nlvr", "pretrain", "retrieval", "vqa"])
def test_original_layout_round_trips_bit_for_bit(name: str) -> None:
    config, state = oracle_config(FAMILY_OF[name]), weights(name)
    ours, training = state_dict.to_blip(state, config, "original")
    theirs = state_dict.from_blip(ours, config, "original", training)
    assert set(state) <= set(theirs)
    assert all(torch.equal(theirs[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(("hf", "original"), [("caption", "decoder"), ("vqa", "vqa"), ("itm", "retrieval")])
def test_both_layouts_convert_to_equal_weights(hf: str, original: str) -> None:
    config = oracle_config(FAMILY_OF[original])
    first, _ = state_dict.to_blip(weights(original), config, "original")
    state = {key: tensor.float() for key, tensor in hf_weights(hf).items()}
    second, _ = state_dict.to_blip(state, config, "hf")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first if key != "temperature")


def hf_weights(name: str) -> dict[str, Tensor]:
    from tests.oracle_files import tensors

    return tensors(f"weights_hf/{name}")


def test_unknown_key_is_refused() -> None:
    state = weights("decoder") | {"text_decoder.extra": torch.zeros(1)}
    with pytest.raises(CheckpointMismatch, match=r"1 unexpected key \(text_decoder.extra\)"):
        state_dict.to_blip(state, oracle_config("caption"), "original")


def test_missing_key_is_refused() -> None:
    state = weights("decoder")
    del state["visual_encoder.norm.bias"]
    with pytest.raises(CheckpointMismatch, match=r"1 missing key \(visual_encoder.norm.bias\)"):
        state_dict.to_blip(state, oracle_config("caption"), "original")


def test_missing_and_unknown_keys_only_warn_without_strict() -> None:
    state = weights("decoder") | {"extra": torch.zeros(1)}
    with pytest.warns(UserWarning, match="1 unexpected key"):
        ours, _ = state_dict.to_blip(state, oracle_config("caption"), "original", strict=False)
    assert "extra" not in ours


def test_unequal_copies_of_a_tied_tensor_are_refused() -> None:
    state = weights("decoder")
    state["text_decoder.cls.predictions.decoder.bias"] = state["text_decoder.cls.predictions.bias"] + 1
    with pytest.raises(CheckpointMismatch, match="must be equal"):
        state_dict.to_blip(state, oracle_config("caption"), "original")


def test_tied_tensor_may_be_stored_under_either_name() -> None:
    state = state_dict.from_blip(
        state_dict.to_blip(weights("decoder"), oracle_config("caption"), "original")[0],
        oracle_config("caption"),
        "hf",
    )
    expected, _ = state_dict.to_blip(dict(state), oracle_config("caption"), "hf")
    del state["text_decoder.bert.embeddings.word_embeddings.weight"], state["text_decoder.cls.predictions.decoder.bias"]
    ours, _ = state_dict.to_blip(state, oracle_config("caption"), "hf")
    assert torch.equal(ours["decoder.embed.word.weight"], expected["decoder.embed.word.weight"])


def test_wrong_position_ids_are_refused() -> None:
    state = weights("decoder") | {"text_decoder.bert.embeddings.position_ids": torch.zeros(1, 64, dtype=torch.int64)}
    with pytest.raises(CheckpointMismatch, match=r"must be 0\.\.63"):
        state_dict.to_blip(state, oracle_config("caption"), "original")


def test_shared_tensors_of_pretraining_are_one_object() -> None:
    ours, _ = state_dict.to_blip(weights("pretrain"), oracle_config("pretrain"), "original")
    assert ours["encoder.blocks.0.cross.q.weight"] is ours["decoder.blocks.0.cross.q.weight"]
    assert not torch.equal(ours["encoder.blocks.0.attn.q.weight"], ours["decoder.blocks.0.attn.q.weight"])


def test_training_state_is_converted_and_returned() -> None:
    _, training = state_dict.to_blip(weights("retrieval"), oracle_config("retrieval"), "original")
    assert {
        "image_queue",
        "text_queue",
        "idx_queue",
        "queue_ptr",
        "momentum.vision.blocks.0.attn.q.weight",
        "momentum.encoder.embed.word.weight",
        "momentum.text_proj.bias",
    } <= set(training)


def test_file_without_momentum_is_accepted() -> None:
    state = {key: t for key, t in weights("retrieval").items() if "_m." not in key and "queue" not in key}
    ours, training = state_dict.to_blip(state, oracle_config("retrieval"), "original")
    assert training == {} and len(ours) == len(adapt.expected_shapes(oracle_config("retrieval")))


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(CheckpointMismatch, match="not BLIP weights"):
        state_dict.detect_layout(["conv1.weight", "fc.bias"])


def test_models_without_transformers_class_are_refused() -> None:
    with pytest.raises(ConfigError, match="no class for 'nlvr'"):
        state_dict.from_blip({}, published_config("nlvr"), "hf")
    with pytest.raises(ConfigError, match="must be equal"):
        state_dict.from_blip({}, published_config("vqa", "large"), "hf")


def test_layouts_that_hold_a_model_are_known_from_its_config() -> None:
    tiny = replace(random_tiny_config("caption"), vision=VisionConfig(stem="edgetpu"))
    assert can_export_to("blip", tiny) and not can_export_to("hf", tiny) and not can_export_to("original", tiny)
    assert can_export_to("hf", random_tiny_config("caption")) and not can_export_to("hf", random_tiny_config("nlvr"))
    assert can_export_to("original", random_tiny_config("nlvr"))


@pytest.mark.parametrize("family", ["retrieval", "pretrain"])
def test_weights_without_training_state_get_what_training_starts_with(family: Family) -> None:
    config = random_tiny_config(family)
    state = BlipModel(config).state_dict()
    written = state_dict.from_blip(state, config, "original")
    again = state_dict.from_blip(state, config, "original")
    assert all(torch.equal(written[name], again[name]) for name in written), "random features are seeded"
    copies = [name for name in written if "_m." in name]
    assert len(copies) > 50 and all(torch.equal(written[name], written[name.replace("_m.", ".")]) for name in copies)
    assert torch.allclose(written["image_queue"].norm(dim=0), torch.ones(57600))
    assert int(written["queue_ptr" if family == "pretrain" else "ptr_queue"]) == 0
    back, training = state_dict.to_blip(written, config, "original")
    assert all(torch.equal(back[name], state[name]) for name in state) and training["text_queue"].shape == (16, 57600)
