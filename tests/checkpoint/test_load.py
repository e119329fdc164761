from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blip.checkpoint import files, state_dict
from blip.checkpoint.adapt import build_on_meta
from blip.checkpoint.load import load, random_tiny, start_from
from blip.checkpoint.locate import imported_dir, locate
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, Family, TextConfig, VisionConfig, random_tiny_config
from blip_lite.errors import CheckpointError, CheckpointMismatch, ConfigError, OfflineError, UnknownModel

FAMILIES: list[Family] = ["features", "caption", "retrieval", "vqa", "nlvr", "pretrain"]
# Widths of 64 per head, so that a bare file tells everything; the real vocabulary at a small width.
SMALL = BlipConfig(
    family="caption",
    vision=VisionConfig(image_size=32, width=64, num_layers=2, num_heads=1, mlp_width=64),
    text=TextConfig(width=64, num_layers=2, num_heads=1, mlp_width=64, max_length=32, nlvr_merge_from=1),
)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BLIP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def small_file(path: Path) -> BlipModel:
    model = BlipModel(SMALL).eval()
    files.write_original(path, model.state_dict(), SMALL)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_folder_loads_with_equal_weights(tmp_path: Path, family: Family) -> None:
    loaded = random_tiny(family)
    files.write_folder(tmp_path / "m", loaded.model.state_dict(), loaded.config)
    again = load(tmp_path / "m")
    state = loaded.model.state_dict()
    assert again.config == loaded.config and not again.model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.state_dict().items())


def test_a_model_on_meta_has_the_shapes_of_a_real_one() -> None:
    model = build_on_meta(SMALL)
    expected = {name: tensor.shape for name, tensor in BlipModel(SMALL).state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == expected
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_loading_does_not_load_torchs_compiler() -> None:
    code = "import sys, blip; blip.load('tiny'); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shared_weights_stay_shared_after_loading(tmp_path: Path) -> None:
    loaded = random_tiny("pretrain")
    files.write_folder(tmp_path / "m", loaded.model.state_dict(), loaded.config)
    model = load(tmp_path / "m").model
    assert model.encoder.embed.word.weight is model.decoder.embed.word.weight


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_bare_original_file_loads(tmp_path: Path, name: str) -> None:
    model = small_file(tmp_path / name)
    loaded = load(tmp_path / name)
    pixels, ids = torch.randn(1, 3, 32, 32), torch.tensor([[30522, 1037]])
    with torch.no_grad():
        expected = model.decode(ids, None, model.encode_image(pixels))
        assert torch.equal(loaded.model.decode(ids, None, loaded.model.encode_image(pixels)), expected)


def test_half_precision_file_loads_as_float32(tmp_path: Path) -> None:
    state = state_dict.from_blip(BlipModel(SMALL).state_dict(), SMALL, "original")
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "a.pth")
    assert {tensor.dtype for tensor in load(tmp_path / "a.pth").model.state_dict().values()} == {torch.float32}


def test_transformers_folder_loads_with_its_eps(tmp_path: Path) -> None:
    model = BlipModel(SMALL)
    files.write_hf_folder(tmp_path, model.state_dict(), SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vision_config"]["layer_norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).config.vision.norm_eps == 1e-5


def test_other_image_size_resizes_positions(tmp_path: Path) -> None:
    small_file(tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth", image_size=64)
    assert loaded.config.vision.image_size == 64
    assert loaded.model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 17, 64)
    with pytest.raises(ConfigError, match="multiple of patch_size"):
        load(tmp_path / "a.pth", image_size=50)


def test_missing_weights_are_refused_unless_not_strict(tmp_path: Path) -> None:
    state = random_tiny("caption").model.state_dict()
    del state["decoder.lm_head.bias"]
    files.write_folder(tmp_path / "m", state, random_tiny_config("caption"))
    with pytest.raises(CheckpointMismatch, match=r"1 missing key \(decoder.lm_head.bias\)"):
        load(tmp_path / "m")
    with pytest.warns(UserWarning, match="left random"):
        assert load(tmp_path / "m", strict=False).model.decoder.lm_head is not None


def test_wrong_shape_is_refused(tmp_path: Path) -> None:
    state = random_tiny("caption").model.state_dict() | {"vision.norm.bias": torch.zeros(3)}
    files.write_folder(tmp_path / "m", state, random_tiny_config("caption"))
    with pytest.raises(CheckpointMismatch, match=r"vision.norm.bias is \[3\]; must be \[32\]"):
        load(tmp_path / "m")


def test_training_state_comes_with_the_model(tmp_path: Path) -> None:
    config = replace(SMALL, family="retrieval", proj_width=16)
    state = BlipModel(config).state_dict()
    parts = ("vision", "encoder", "text_proj")
    momentum = {f"momentum.{name}": tensor for name, tensor in state.items() if name.startswith(parts)}
    training = {**momentum, "queue_ptr": torch.zeros(1), "image_queue": torch.zeros(16, 8)}
    files.write_original(tmp_path / "a.pth", state, config, training)
    loaded = load(tmp_path / "a.pth", image_size=64)
    assert loaded.training.keys() == {*training, "text_queue", "idx_queue"} and loaded.config.family == "retrieval"
    assert loaded.training["momentum.vision.pos_embed"].shape == (1, 17, 64)


def test_random_tiny_is_the_same_every_time_and_leaves_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (load("random-tiny").model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)
    assert load("random-tiny-vqa").config.family == "vqa"


def test_starting_another_family_keeps_what_fits() -> None:
    loaded = random_tiny("pretrain")
    model, adapted = start_from(loaded, random_tiny_config("nlvr"))
    assert torch.equal(model.vision.cls_token, loaded.model.vision.cls_token)
    assert {"nlvr_head.fc1.weight", "encoder.blocks.1.cross_merge.weight"} <= set(adapted.random)


def test_uncached_model_offline_is_an_error_with_the_way_out() -> None:
    with pytest.raises(OfflineError) as error:
        load("caption-base", offline=True)
    assert str(error.value) == (
        "model 'caption-base' is not cached and --offline is set; run 'blip models get caption-base' once, "
        "or leave out -m to use the bundled model"
    )


def test_uncached_hub_model_offline_is_an_error() -> None:
    with pytest.raises(OfflineError, match="blip models get Salesforce/blip-vqa-base"):
        load("Salesforce/blip-vqa-base", offline=True)


@pytest.mark.parametrize("name", ["missing.pth", "./missing", "a/b/c", "./model_base.pth"])
def test_missing_path_is_not_an_unknown_model(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load(name)


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownModel, match="did you mean 'nlvr-base'"):
        load("nlvr-bas")


def test_cached_file_of_another_family_is_refused(tmp_path: Path) -> None:
    small_file(tmp_path / "cache/checkpoints/model_vqa.pth")
    with pytest.raises(CheckpointMismatch, match="holds a 'caption' model; must be 'vqa'"):
        load("vqa-base", offline=True)


def test_catalogue_name_takes_precedence_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random-tiny").mkdir()
    assert locate("random-tiny").entry is not None
    assert locate("./random-tiny").path == Path("random-tiny")


def test_imported_name_is_found() -> None:
    loaded = random_tiny("caption")
    files.write_folder(imported_dir() / "mine", loaded.model.state_dict(), loaded.config)
    assert load("mine").config == loaded.config


def test_file_that_is_not_a_blip_model_is_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"a.safetensors: not BLIP weights"):
        load(tmp_path / "a.safetensors")


def test_a_lora_adapter_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"base_model.q.lora_A.weight": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="it holds a LoRA adapter: merge it into its base model first"):
        load(tmp_path)


def test_floats_of_eight_bits_are_refused(tmp_path: Path) -> None:
    """They would be read without their scales: another model."""
    save_file({"vision.w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"a.safetensors: vision.w is torch.float8_e4m3fn; must be a float of"):
        load(tmp_path / "a.safetensors")
    state = {"vision.w": torch.zeros(2, 2, dtype=torch.int8), "vision.w.scale": torch.zeros(3)}
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"b.safetensors: vision.w.scale: \[3\]; must be \[2\]"):
        load(tmp_path / "b.safetensors")
