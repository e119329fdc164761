"""Weights files as other programs, downloads and copies leave them: read in full, or refused with the reason."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import blip
from blip.checkpoint import files, state_dict
from blip.checkpoint.load import load
from blip.checkpoint.locate import locate
from blip.checkpoint.weights_file import read_state
from blip.model.blip import BlipModel
from blip_lite.errors import BlipError, CheckpointError, CheckpointMismatch
from tests.checkpoint.test_load import SMALL, folders  # noqa: F401

CASES = Path(__file__).parents[1] / "cases"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def original() -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return state_dict.from_blip(BlipModel(SMALL).state_dict(), SMALL, "original")


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same_as(original: State, path: Path) -> None:
    result = load(path)
    back = state_dict.from_blip(result.model.state_dict(), result.config, "original")
    assert back.keys() == original.keys() and all(torch.equal(back[name], original[name]) for name in original)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "model.module._orig_mod.", "net.blip.", "_fsdp_wrapped_module."]
)
def test_prefixes_of_wrappers_and_of_an_outer_module(tmp_path: Path, original: State, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in original.items()}
    same_as(original, saved(tmp_path / "a.pth", {"state_dict": state}))
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    same_as(original, tmp_path / "a.safetensors")


def test_wrappers_within_the_model(tmp_path: Path, original: State) -> None:
    state = {name.replace("visual_encoder.", "visual_encoder._orig_mod."): x for name, x in original.items()}
    state = {name.replace("text_decoder.bert.", "text_decoder.module.bert."): x for name, x in state.items()}
    same_as(original, saved(tmp_path / "a.pt", state))


@pytest.mark.parametrize(
    "keys",
    [["model"], ["state_dict"], ["model_state_dict"], ["ema"], ["module"], ["state", "model"], ["ema", "module"]],
)
def test_entries_of_training_files(tmp_path: Path, original: State, keys: list[str]) -> None:
    content: object = original
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "optimizer": {"state": {}}}
    if keys[0] == "state":
        with pytest.raises(CheckpointError, match="must be a state dict, or hold one as model"):
            load(saved(tmp_path / "a.pth", content))
    else:
        same_as(original, saved(tmp_path / "a.pth", content))


def test_weights_are_preferred_to_their_average_with_a_warning(
    tmp_path: Path, original: State, caplog: pytest.LogCaptureFixture
) -> None:
    average = {name: torch.zeros_like(tensor) for name, tensor in original.items()}
    with caplog.at_level(logging.WARNING):
        same_as(original, saved(tmp_path / "a.pth", {"ema": average, "model": original}))
    assert "holds 'model' and 'ema'; 'model' is read" in caplog.text


def test_lightning_file_with_settings(tmp_path: Path, original: State) -> None:
    state = {f"model.{name}": tensor for name, tensor in original.items()}
    settings = {"hyper_parameters": Namespace(rate=1e-4, folder=Path("x")), "callbacks": {}}
    same_as(original, saved(tmp_path / "last.ckpt", {"state_dict": state, **settings}))


def test_tensors_beside_the_model_are_refused(tmp_path: Path, original: State) -> None:
    state = {f"model.{name}": tensor for name, tensor in original.items()} | {"loss.weight": torch.zeros(2)}
    with pytest.raises(CheckpointMismatch, match=r"1 unexpected key \(loss.weight\)"):
        load(saved(tmp_path / "a.pth", state))


def test_two_models_in_a_file_are_refused(tmp_path: Path, original: State) -> None:
    state = {f"{who}.{name}": tensor for name, tensor in original.items() for who in ("student", "teacher")}
    with pytest.raises(CheckpointMismatch, match=r"holds 2 models \(student\., teacher\."):
        load(saved(tmp_path / "a.pth", state))


@pytest.mark.parametrize("name", ["A.PTH", "A.SafeTensors", "model.BIN"])
def test_upper_case_endings(tmp_path: Path, original: State, name: str) -> None:
    if name.endswith("ors"):
        save_file({key: tensor.clone() for key, tensor in original.items()}, tmp_path / name)
        same_as(original, tmp_path / name)
    else:
        same_as(original, saved(tmp_path / name, original))


def test_safetensors_under_the_name_of_a_pickle_and_the_reverse(tmp_path: Path, original: State) -> None:
    save_file({key: tensor.clone() for key, tensor in original.items()}, tmp_path / "a.bin")
    same_as(original, tmp_path / "a.bin")
    same_as(original, saved(tmp_path / "b.safetensors", original))


def shards(folder: Path, original: State, ending: str = "safetensors") -> Path:
    """A model in two shards, as Transformers writes large ones."""
    files.write_hf_folder(folder, state_dict.to_blip(original, SMALL, "original")[0], SMALL)
    whole = folder / "model.safetensors"
    state = read_state(whole)
    whole.unlink()
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names, index = sorted(state), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-0000{i}-of-00002.{ending}"
        write: Callable[[State, Path], None] = save_file if ending == "safetensors" else torch.save
        write({name: state[name].clone() for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    path = folder / f"{stem}.{ending}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return path


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_with_an_index(tmp_path: Path, original: State, ending: str) -> None:
    index = shards(tmp_path / "m", original, ending)
    for path in (tmp_path / "m", index):
        result = load(path)
        back = state_dict.from_blip(result.model.state_dict(), result.config, "original")
        assert all(torch.equal(back[name], original[name]) for name in original)
    part = next(index.parent.glob("*-00002-of-*"))
    assert load(part).config.family == "caption", "a shard stands for all of them"


def test_missing_and_damaged_shards_are_named(tmp_path: Path, original: State) -> None:
    index = shards(tmp_path / "m", original)
    second = index.with_name("model-00002-of-00002.safetensors")
    content = second.read_bytes()
    second.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors: truncated"):
        load(tmp_path / "m")
    second.unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 shards missing: model-00002-of-00002.safetensors"):
        load(tmp_path / "m")
    index.unlink()
    with pytest.raises(CheckpointError, match=r"one of 2 shards; the index model.safetensors.index.json is missing"):
        load(tmp_path / "m" / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "must be the name of a file in its folder"),
        ('{"weight_map": {"a": 3}}', "must be the name of a file in its folder"),
    ],
)
def test_bad_index_is_refused(tmp_path: Path, original: State, content: str, message: str) -> None:
    shards(tmp_path / "m", original).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "a web page"),
        (b"\n <html lang=en>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page or error message"),
        (b'{"error": "Repository not found"}', "JSON text"),
        (b"\x1f\x8b\x08rest", "compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\0" * 5000, "starts with zeros"),
        (b"hello, these are no weights", "damaged or not a weights file"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin"])
def test_files_that_are_not_weights_say_what_they_are(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_folder_cloned_without_git_lfs() -> None:
    with pytest.raises(CheckpointError, match="a git-lfs pointer, not the weights; run 'git lfs pull'"):
        blip.load(CASES / "lfs")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_truncated_files_say_so(tmp_path: Path, original: State, name: str, share: float) -> None:
    files.write_original(tmp_path / name, state_dict.to_blip(original, SMALL, "original")[0], SMALL)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="truncated"):
        load(tmp_path / name)


def test_folder_with_only_a_pth_names_it(tmp_path: Path, original: State) -> None:
    saved(tmp_path / "checkpoint_best.pth", original)
    with pytest.raises(CheckpointError, match=r"it holds checkpoint_best.pth: pass that file"):
        load(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_named(tmp_path: Path, original: State, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in original.items()}
    state["visual_encoder.norm.bias"][3] = value
    with pytest.raises(CheckpointMismatch, match=r"vision.norm.bias has 1 value that is NaN or infinite, of 64"):
        load(saved(tmp_path / "a.pth", state))


def test_large_finite_values_are_accepted(tmp_path: Path, original: State) -> None:
    state = original | {"visual_encoder.norm.bias": torch.full((64,), 3e38)}
    assert load(saved(tmp_path / "a.pth", state))


def test_every_changed_tensor_is_refused_or_complete(tmp_path: Path, original: State) -> None:
    """No tensor may be missing, of another shape or of another type without an error that is one line."""
    changes: list[Callable[[State, str], object]] = [
        lambda state, name: state.pop(name),
        lambda state, name: state.update({name: state[name][..., :-1] if state[name].dim() else torch.zeros(2)}),
        lambda state, name: state.update({name: torch.zeros(())}),
        lambda state, name: state.update({name: torch.ones(state[name].shape, dtype=torch.complex64)}),
        lambda state, name: state.update({name: torch.zeros(0)}),
    ]
    derived = "position_ids"  # a counter; and of a tensor under two names either may be missing
    twice = {"text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias"}
    twice |= {"text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.cls.predictions.bias"}
    for name in original:
        for change in changes:
            state = dict(original)
            change(state, name)
            if name not in state and (derived in name or name in twice):
                continue
            with pytest.raises(BlipError) as error:
                load(saved(tmp_path / "a.pth", state))
                pytest.fail(f"{name} changed to {state.get(name)}")
            assert "\n" not in str(error.value), (name, str(error.value))


def test_names_of_published_files_are_in_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = locate("model_base_caption_capfilt_large.pth").entry
    assert entry is not None and entry.name == "caption-base"
    (tmp_path / "model_base_caption_capfilt_large.pth").write_bytes(b"mine")
    assert locate("model_base_caption_capfilt_large.pth").path == Path("model_base_caption_capfilt_large.pth")
    with pytest.raises(CheckpointError, match="no such file or folder; the catalogue has it as 'vqa-base'"):
        locate("weights/model_vqa.pth")


def test_training_starts_from_wrapped_files_too(tmp_path: Path, original: State) -> None:
    from blip.tasks.initialize import Start, start_model

    path = saved(tmp_path / "a.ckpt", {"state_dict": {f"model.module.{name}": x for name, x in original.items()}})
    assert not start_model(Start(init=str(path)), "caption").random
    config = replace(SMALL, vision=replace(SMALL.vision, num_layers=3))
    files.write_folder(tmp_path / "m", state_dict.to_blip(original, SMALL, "original")[0], config)
    with pytest.raises(CheckpointMismatch, match="missing key"):
        start_model(Start(init=str(tmp_path / "m")), "caption")
