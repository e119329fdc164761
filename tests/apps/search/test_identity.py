"""Identity of the model of an index."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir
import pytest

import blip
import blip_lite
from blip.api import open_model
from blip.apps.export.convert import use_integer_products
from blip.apps.search.identity import identity_of
from blip_lite.errors import CheckpointMismatch


def test_same_weights_have_same_identity_under_any_name(model: blip.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    for name in (tmp_path / "m", tmp_path / "m" / "model.safetensors"):
        identity = identity_of(blip.load(name))
        assert identity.model == str(name) and len(identity.weights) == 64
        assert identity.weights == identity_of(blip.load(tmp_path / "m")).weights
    model.save(tmp_path / "copy")
    assert identity_of(blip.load(tmp_path / "copy")).weights == identity.weights


def test_relative_name_becomes_absolute(model: blip.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    assert identity_of(blip.load("m")).model == str(tmp_path / "m")
    assert identity_of(model).model == "random-tiny"


def test_weights_file_is_hashed_once(model: blip.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "m")
    loaded = blip.load(tmp_path / "m")
    known = identity_of(loaded)
    monkeypatch.setattr("blip.apps.search.identity.sha256_of", None)
    assert identity_of(loaded, known) == known


def test_other_weights_or_image_size_change_identity(model: blip.Model) -> None:
    ours = identity_of(model)
    assert identity_of(blip.load_random()).weights == ours.weights
    assert identity_of(blip.load_random(seed=1)).weights != ours.weights
    assert identity_of(blip.load("random-tiny", image_size=48)).image_size == 48


def test_graphs_that_multiply_integers_have_another_identity(tmp_path: Path) -> None:
    shutil.copytree(Path(blip_lite.__file__).parent / "assets" / "tiny", tmp_path / "int8")
    graph = onnx_ir.load(tmp_path / "int8" / "vision.onnx")
    use_integer_products(graph)
    onnx_ir.save(graph, tmp_path / "int8" / "vision.onnx")
    exact = identity_of(open_model("tiny", needs=["match"]))
    rounded = identity_of(open_model(str(tmp_path / "int8"), backend="onnx", needs=["match"]))
    assert rounded.weights == f"{exact.weights}-int8" and identity_of(blip.load("tiny")).weights == exact.weights
    assert identity_of(open_model(str(tmp_path / "int8"), backend="onnx", needs=["match"]), rounded) == rounded
    with pytest.raises(CheckpointMismatch, match=f"{exact.weights[:8]}-int8"):
        exact.check(tmp_path, rounded)
