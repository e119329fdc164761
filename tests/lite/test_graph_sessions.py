"""The stepper on the bundled graphs computes the scores of the stepper on torch, whichever rows are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import blip
import blip_lite
from blip.model.stepper import TextStepper
from blip_lite import ASSETS
from blip_lite.errors import CheckpointError
from blip_lite.graph_sessions import GraphSessions, GraphStepper

TOLERANCE = 5e-5  # of scores around 10, in float32


@pytest.fixture(scope="module")
def sessions() -> GraphSessions:
    return GraphSessions(ASSETS / "tiny", threads=1)


@pytest.fixture(scope="module")
def torch_model() -> blip.Model:
    return blip.load("tiny")


def steppers(sessions: GraphSessions, model: blip.Model, images: int) -> tuple[GraphStepper, TextStepper]:
    """Both steppers on the same random image states."""
    source = np.random.default_rng(0).standard_normal((images, 9, model.config.vision.width), dtype=np.float32)
    with torch.inference_mode():
        cross = model.backend.module.decoder.cross_keys_values(torch.from_numpy(source))
    return GraphStepper(sessions, sessions.run("cross", {"source": source})), TextStepper(
        model.backend.module.decoder, cross
    )


def close(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    return ours.dtype == np.float32 and ours.shape == theirs.shape and np.abs(ours - theirs.numpy()).max() < TOLERANCE


@torch.inference_mode()
def test_scores_equal_those_of_torch(sessions: GraphSessions, torch_model: blip.Model) -> None:
    ours, theirs = steppers(sessions, torch_model, images=3)
    prompt = np.array([[10000, 7], [10000, 9], [10000, 11]])
    assert close(ours.start(prompt, 9), theirs.start(torch.from_numpy(prompt), 9))
    ours.expand(2)
    theirs.expand(2)
    for ids, rows in (([5, 6, 7, 8, 9, 10], [1, 0, 3, 3, 4, 5]), ([11, 12, 13, 14, 15, 16], [0, 0, 2, 3, 5, 4])):
        assert close(ours.step(np.array(ids)), theirs.step(torch.tensor(ids)))
        ours.reorder(np.array(rows))
        theirs.reorder(torch.tensor(rows))
    ours.keep(np.array([0, 2]), np.array([1, 0, 4, 4]))
    theirs.keep(torch.tensor([0, 2]), torch.tensor([1, 0, 4, 4]))
    ids = [20, 21, 22, 23]
    assert close(ours.step(np.array(ids)), theirs.step(torch.tensor(ids)))


def test_a_fork_does_not_change_the_original(sessions: GraphSessions, torch_model: blip.Model) -> None:
    stepper, _ = steppers(sessions, torch_model, images=2)
    stepper.start(np.array([[10000], [10000]]), 9)
    expected = stepper.fork().step(np.array([5, 6]))
    other = stepper.fork()
    other.expand(3)
    other.step(np.arange(6))
    np.testing.assert_array_equal(stepper.step(np.array([5, 6])), expected)


def test_sessions_are_opened_when_first_used(sessions: GraphSessions) -> None:
    fresh = GraphSessions(sessions.folder)
    assert {"vision", "text", "fuse", "match", "cross", "decoder"} == fresh.graphs and not fresh._sessions
    fresh.run("cross", {"source": np.zeros((1, 2, 384), np.float32)})
    assert list(fresh._sessions) == ["cross"]


def test_damaged_graph_is_one_line(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "vision.onnx").write_bytes(b"\x08\x0a nothing")
    with pytest.raises(CheckpointError, match=r"vision\.onnx: cannot be opened; export the model again") as caught:
        GraphSessions(tmp_path).session("vision")
    assert "\n" not in str(caught.value)


def test_graph_without_its_weights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cross.onnx").write_bytes((ASSETS / "tiny/cross.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"no model\.safetensors, which the graphs read"):
        GraphSessions(tmp_path).session("cross")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<html>", "a web page"),
        (None, "truncated"),
    ],
)
def test_weights_that_are_not_weights_say_what_they_are(tmp_path: Path, content: bytes | None, message: str) -> None:
    shutil.copytree(ASSETS / "tiny", tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(CheckpointError, match=message):
        blip_lite.load(tmp_path / "m").caption(np.zeros((32, 32, 3), np.uint8))


def test_weights_with_nan_are_named(tmp_path: Path) -> None:
    tensors = load_file(ASSETS / "tiny" / "model.safetensors")
    name = next(key for key, value in sorted(tensors.items()) if value.dtype == np.float16)
    tensors[name].ravel()[0] = np.nan
    shutil.copytree(ASSETS / "tiny", tmp_path / "m")
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} has values that are NaN or infinite"):
        blip_lite.load(tmp_path / "m").caption(np.zeros((32, 32, 3), np.uint8))
