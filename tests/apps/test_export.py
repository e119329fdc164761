"""Exported folders: graphs that compute the same as torch, with weights stored once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx_ir
import pytest
import torch
from torch import nn

import blip
import blip_lite.onnx_backend
from blip.apps.export.convert import read_locations
from blip.apps.export.folder import ExportOptions, ExportReport, export
from blip.apps.export.graphs import Graph, Input
from blip.apps.export.verify import check_difference, max_difference
from blip.checkpoint.files import write_folder
from blip.model.blip import BlipModel
from blip_lite.config import FAMILIES, BlipConfig, Family, random_tiny_config
from blip_lite.errors import CheckpointMismatch, MissingExtra, MissingPart, UsageError

PHOTO = Path(__file__).parents[2] / "examples/coffee.png"
TOLERANCE = 2e-5  # float32, different order of summation


def one_layer(family: Family) -> BlipConfig:
    config = random_tiny_config(family)
    return replace(config, vision=replace(config.vision, num_layers=1), text=replace(config.text, num_layers=1))


def write_model(folder: Path, config: BlipConfig) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_folder(folder, BlipModel(config).state_dict(), config)
    return folder


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "captioner", one_layer("caption"))


@pytest.fixture(scope="module")
def report(captioner: Path) -> ExportReport:
    return export(str(captioner), captioner.with_name("graphs"), ExportOptions())


@pytest.fixture(scope="module")
def folder(captioner: Path, report: ExportReport) -> Path:
    return captioner.with_name("graphs")


@pytest.fixture(scope="module")
def int8_report(captioner: Path) -> ExportReport:
    return export(str(captioner), captioner.with_name("int8"), ExportOptions(int8=True, parts=("decoder",)))


def test_graphs_equal_torch(report: ExportReport) -> None:
    assert set(report.exact) == {"vision", "cross", "decoder"} and not report.rounded
    assert max(report.exact.values()) < TOLERANCE


def test_captions_equal_those_of_torch(folder: Path) -> None:
    ours, theirs = blip_lite.onnx_backend.load(folder), blip.load(folder)
    for beams in (1, 3):
        captions, expected = (model.caption([PHOTO, PHOTO], beams=beams) for model in (ours, theirs))
        assert [c.text for c in captions] == [c.text for c in expected]
        assert [c.score for c in captions] == pytest.approx([c.score for c in expected], abs=1e-4)


def test_weights_are_stored_once(folder: Path, captioner: Path) -> None:
    assert (folder / "model.safetensors").read_bytes() == (captioner / "model.safetensors").read_bytes()
    stored = read_locations(folder / "model.safetensors")
    for path in folder.glob("*.onnx"):
        for value in onnx_ir.load(path).graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            if isinstance(tensor, onnx_ir.ExternalTensor):
                location = stored[tensor.name]
                assert (tensor.location, tensor.offset, tensor.length) == (
                    "model.safetensors",
                    location.offset,
                    location.length,
                )
            else:
                assert tensor.nbytes <= 64, value.name


def test_graphs_contain_no_paths_of_this_machine(folder: Path) -> None:
    for path in folder.glob("*.onnx"):
        data = path.read_bytes()
        assert b"site-packages" not in data and b".py" not in data and str(Path.home()).encode() not in data


def test_free_axes_are_named(folder: Path) -> None:
    graph = onnx_ir.load(folder / "decoder.onnx").graph
    shapes = {value.name: str(value.shape) for value in graph.inputs}
    assert shapes["ids"] == "[images,rows,new]" and shapes["rows"] == "[images,rows]"
    assert shapes["past_keys_0"] == "[past_rows,2,past,16]" and shapes["cross_values_0"] == "[images,2,tokens,16]"


def test_int8_weights_are_stored_and_multiplied_as_bytes(captioner: Path, int8_report: ExportReport) -> None:
    folder = captioner.with_name("int8")
    assert max(int8_report.exact.values()) < TOLERANCE < max(int8_report.rounded.values()) < 0.1
    stored = read_locations(folder / "model.safetensors")
    assert stored["decoder.blocks.0.mlp.fc1.weight"].dtype == "I8"
    operations = [node.op_type for node in onnx_ir.load(folder / "decoder.onnx").graph]
    assert operations.count("MatMulInteger") == 10 and "MatMul" in operations  # attention itself is unchanged


def test_part_missing_in_the_model_is_rejected(captioner: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="has no text; it is a 'caption' model"):
        export(str(captioner), tmp_path / "out", ExportOptions(parts=("text",)))
    assert not any(tmp_path.iterdir())


def test_unknown_part_is_rejected() -> None:
    with pytest.raises(UsageError, match="--parts head; must be one of vision, text, decoder"):
        ExportOptions(parts=("head",))


@pytest.mark.parametrize("difference", [2e-3, float("nan")])
def test_too_large_difference_is_rejected(difference: float) -> None:
    with pytest.raises(CheckpointMismatch, match=r"vision\.onnx differs .* nothing was written"):
        check_difference("vision", difference, 1e-3)


def test_nan_output_is_a_difference() -> None:
    graph = Graph("same", nn.Identity(), {"x": Input((2, 3))}, ["y"])
    engine = Mock(run=lambda name, feeds: [np.full((2, 3), np.nan, np.float32)])
    assert np.isnan(max_difference(graph, engine, 100))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_exported(family: Family, tmp_path: Path) -> None:
    report = export(str(write_model(tmp_path / "model", random_tiny_config(family))), tmp_path / "out", ExportOptions())
    assert max(report.exact.values()) < TOLERANCE
    ours, theirs = blip_lite.onnx_backend.load(tmp_path / "out"), blip.load(tmp_path / "out")
    assert ours.capabilities == theirs.capabilities - {"sample"}
    vectors = [model.embed_image([PHOTO, PHOTO], projected=False).vectors for model in (ours, theirs)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=TOLERANCE)


@pytest.mark.slow
def test_answers_equal_those_of_torch(tmp_path: Path) -> None:
    export("random-tiny-vqa", tmp_path / "out", ExportOptions())
    ours, theirs = blip_lite.onnx_backend.load(tmp_path / "out"), blip.load(tmp_path / "out")
    questions, answers = (
        ["what is it?", "how many cups are on the table here?"],
        ["two", "a cup of coffee", "no", "red"],
    )
    for choices, top in ((None, 1), (None, 3), (answers, 4)):
        answered, expected = (model.answer(PHOTO, questions, answers=choices, top=top) for model in (ours, theirs))
        for answer, other in zip(answered, expected, strict=True):
            assert (answer.text, answer.mode) == (other.text, other.mode)
            assert [x.text for x in answer.alternatives] == [x.text for x in other.alternatives]
            assert answer.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.slow
def test_statements_equal_those_of_torch(tmp_path: Path) -> None:
    export("random-tiny-nlvr", tmp_path / "out", ExportOptions())
    ours, theirs = (load(tmp_path / "out") for load in (blip_lite.onnx_backend.load, blip.load))
    result, expected = (model.compare(PHOTO, PHOTO, "both show coffee") for model in (ours, theirs))
    assert result.score == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_other_opsets(captioner: Path, tmp_path: Path, opset: int) -> None:
    report = export(str(captioner), tmp_path / "out", ExportOptions(opset=opset))
    assert max(report.exact.values()) < TOLERANCE
    assert onnx_ir.load(tmp_path / "out/decoder.onnx").opset_imports[""] == opset


def test_missing_package_is_reported_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.apps.export.convert.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(MissingExtra, match=r'pip install "blip-vlm\[onnx\]"'):
        export("random-tiny", tmp_path / "out", ExportOptions())
    assert list(tmp_path.iterdir()) == []
