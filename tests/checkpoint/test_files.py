from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blip.checkpoint import files, state_dict
from blip.checkpoint.quantize import quantize
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, random_tiny_config
from blip_lite.errors import CheckpointError, ConfigError, EnvironmentProblem
from tests.oracle_files import oracle_config, weights


def small(family: str = "pretrain") -> tuple[dict[str, torch.Tensor], BlipConfig]:
    config = random_tiny_config(family)  # type: ignore[arg-type]
    return BlipModel(config).state_dict(), config


@pytest.mark.parametrize("wrapped", [True, False])
def test_pth_is_read_with_or_without_wrapping(tmp_path: Path, wrapped: bool) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save({"model": state, "optimizer": {"lr": 1e-5}, "epoch": 3} if wrapped else state, tmp_path / "a.pth")
    assert torch.equal(files.read_state(tmp_path / "a.pth")["a"], state["a"])


def test_pth_of_old_torch_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(files.read_state(tmp_path / "a.pth")["a"], torch.arange(3.0))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("new", [True, False])
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, new: bool) -> None:
    torch.save({"model": Hostile(tmp_path / "ran")}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="refused: it holds") as error:
        files.read_state(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04broken"])
def test_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        files.read_state(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_pth_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": 1}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="'a' is not a tensor"):
        files.read_state(tmp_path / "a.pth")


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="unknown type of weights file"):
        files.read_state(tmp_path / "a.h5")


@pytest.mark.parametrize("family", ["pretrain", "nlvr", "retrieval"])
def test_a_model_folder_round_trips_bit_for_bit(tmp_path: Path, family: str) -> None:
    state, config = small(family)
    files.write_folder(tmp_path / "m", state, config)
    stored = files.read(tmp_path / "m")
    ours, _ = state_dict.to_blip(stored.state, config, "blip")
    assert stored.config == config
    assert ours.keys() == state.keys() and all(torch.equal(ours[key], state[key]) for key in state)


def test_shared_tensors_are_stored_once(tmp_path: Path) -> None:
    state, config = small("pretrain")
    files.write_folder(tmp_path, state, config)
    assert "encoder.embed.word.weight" not in load_file(tmp_path / "model.safetensors")


def test_quantised_folder_is_read_as_floats(tmp_path: Path) -> None:
    state, config = small("pretrain")
    files.write_folder(tmp_path, quantize(state), config)
    ours, _ = state_dict.to_blip(files.read(tmp_path).state, config, "blip")
    assert ours.keys() == state.keys()
    assert all(torch.allclose(ours[key], state[key], atol=float(state[key].abs().max()) / 200) for key in state)


def test_the_vocabulary_is_stored_with_the_weights(tmp_path: Path) -> None:
    state, config = small("caption")
    (tmp_path / "words").write_text("[PAD]\n")
    config_with_vocab = BlipConfig.from_dict(config.to_dict() | {"vocab": "vocab.txt"})
    files.write_folder(tmp_path / "m", state, config_with_vocab, vocab=tmp_path / "words")
    assert (tmp_path / "m" / "vocab.txt").read_text() == "[PAD]\n"
    with pytest.raises(ConfigError, match="must be passed"):
        files.write_folder(tmp_path / "n", state, config_with_vocab)


@pytest.mark.parametrize("weights_name", ["model.safetensors", "pytorch_model.bin"])
def test_transformers_folder_is_read(tmp_path: Path, weights_name: str) -> None:
    state = {"vision_model.x": torch.zeros(2)}
    torch.save(state, tmp_path / weights_name) if weights_name.endswith("bin") else save_file(
        state, tmp_path / weights_name
    )
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    stored = files.read(tmp_path)
    assert stored.config is None and stored.hf_config == {"model_type": "blip"}


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "clip"}', '{"famly": "caption"}', '{"vision": 3}'])
def test_bad_config_names_the_file(tmp_path: Path, config: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        files.read(tmp_path)


def test_folder_without_weights_names_the_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs config\.json and model\.safetensors"):
        files.read(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_original_file_is_written_with_shared_names(tmp_path: Path, suffix: str) -> None:
    config = oracle_config("pretrain")
    ours, training = state_dict.to_blip(weights("pretrain"), config, "original")
    path = tmp_path / f"out{suffix}"
    files.write_original(path, ours, config, training)
    again = files.read_state(path)
    assert set(again) >= set(weights("pretrain"))
    assert torch.equal(again["text_encoder.embeddings.word_embeddings.weight"], ours["decoder.embed.word.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    ours, _ = state_dict.to_blip(weights("decoder"), oracle_config("caption"), "original")
    with pytest.raises(EnvironmentProblem, match="no space left"):
        files.write_original(path, ours, oracle_config("caption"))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [path.name]


def test_config_is_readable_json(tmp_path: Path) -> None:
    state, config = small("caption")
    files.write_folder(tmp_path, state, config)
    assert json.loads((tmp_path / "config.json").read_text())["family"] == "caption"
