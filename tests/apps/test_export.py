"""Exported folders: graphs that compute what torch computes, over weights that are stored once."""

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
import blip_lite.model
from blip.apps.export.check import check, difference
from blip.apps.export.graphs import Graph
from blip.apps.export.weights import places
from blip.apps.export.write import Exported, Form, export
from blip.checkpoint.files import write_folder
from blip.model.blip import BlipModel
from blip_lite.config import FAMILIES, BlipConfig, Family, random_tiny_config
from blip_lite.errors import CheckpointMismatch, MissingExtra, MissingPart, UsageError

PHOTO = Path(__file__).parents[2] / "examples/coffee.png"
TOLERANCE = 2e-5  # float32, sums in another order


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
def done(captioner: Path) -> Exported:
    return export(str(captioner), captioner.with_name("graphs"), Form())


@pytest.fixture(scope="module")
def folder(captioner: Path, done: Exported) -> Path:
    return captioner.with_name("graphs")


@pytest.fixture(scope="module")
def eighth(captioner: Path) -> Exported:
    return export(str(captioner), captioner.with_name("eight"), Form(int8=True, parts=("decoder",)))


def test_graphs_equal_torch(done: Exported) -> None:
    assert set(done.exact) == {"vision", "cross", "decoder"} and not done.rounded
    assert max(done.exact.values()) < TOLERANCE


def test_captions_equal_those_of_torch(folder: Path) -> None:
    ours, theirs = blip_lite.model.load(folder), blip.load(folder)
    for beams in (1, 3):
        found, wanted = (model.caption([PHOTO, PHOTO], beams=beams) for model in (ours, theirs))
        assert [one.text for one in found] == [one.text for one in wanted]
        assert [one.score for one in found] == pytest.approx([one.score for one in wanted], abs=1e-4)


def test_weights_are_stored_once(folder: Path, captioner: Path) -> None:
    assert (folder / "model.safetensors").read_bytes() == (captioner / "model.safetensors").read_bytes()
    stored = places(folder / "model.safetensors")
    for path in folder.glob("*.onnx"):
        for value in onnx_ir.load(path).graph.initializers.values():
            tensor = value.const_value
            assert tensor is not None
            if isinstance(tensor, onnx_ir.ExternalTensor):
                place = stored[tensor.name]
                assert (tensor.location, tensor.offset, tensor.length) == (
                    "model.safetensors",
                    place.offset,
                    place.length,
                )
            else:
                assert tensor.nbytes <= 64, value.name


def test_graphs_name_no_folder_of_the_machine(folder: Path) -> None:
    for path in folder.glob("*.onnx"):
        data = path.read_bytes()
        assert b"site-packages" not in data and b".py" not in data and str(Path.home()).encode() not in data


def test_every_free_axis_has_its_name(folder: Path) -> None:
    graph = onnx_ir.load(folder / "decoder.onnx").graph
    shapes = {value.name: str(value.shape) for value in graph.inputs}
    assert shapes["ids"] == "[images,rows,new]" and shapes["rows"] == "[images,rows]"
    assert shapes["past_keys_0"] == "[past_rows,2,past,16]" and shapes["cross_values_0"] == "[images,2,tokens,16]"


def test_int8_stores_and_multiplies_bytes(captioner: Path, eighth: Exported) -> None:
    folder = captioner.with_name("eight")
    assert max(eighth.exact.values()) < TOLERANCE < max(eighth.rounded.values()) < 0.1
    stored = places(folder / "model.safetensors")
    assert stored["decoder.blocks.0.mlp.fc1.weight"].dtype == "I8"
    operations = [node.op_type for node in onnx_ir.load(folder / "decoder.onnx").graph]
    assert operations.count("MatMulInteger") == 10 and "MatMul" in operations  # attention itself stays as it is


def test_a_part_that_the_model_lacks_is_refused(captioner: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="has no text; it is a 'caption' model"):
        export(str(captioner), tmp_path / "out", Form(parts=("text",)))
    assert not any(tmp_path.iterdir())


def test_unknown_part_is_refused() -> None:
    with pytest.raises(UsageError, match="--parts head; must be of vision, text, decoder"):
        Form(parts=("head",))


@pytest.mark.parametrize("found", [2e-3, float("nan")])
def test_too_large_a_difference_is_refused(found: float) -> None:
    with pytest.raises(CheckpointMismatch, match=r"vision\.onnx differs .* nothing was written"):
        check("vision", found, 1e-3)


def test_a_graph_that_gives_no_numbers_is_no_equal() -> None:
    graph = Graph(name="same", module=nn.Identity(), inputs={"x": torch.zeros(2, 3)}, axes={"x": {}}, outputs=["y"])
    engine = Mock(run=lambda name, feeds: [np.full((2, 3), np.nan, np.float32)])
    assert np.isnan(difference(graph, engine, 100))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_exported(family: Family, tmp_path: Path) -> None:
    done = export(str(write_model(tmp_path / "model", random_tiny_config(family))), tmp_path / "out", Form())
    assert max(done.exact.values()) < TOLERANCE
    ours, theirs = blip_lite.model.load(tmp_path / "out"), blip.load(tmp_path / "out")
    assert ours.capabilities == theirs.capabilities - {"sample"}
    vectors = [model.embed_image([PHOTO, PHOTO], projected=False).vectors for model in (ours, theirs)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=TOLERANCE)


@pytest.mark.slow
def test_answers_equal_those_of_torch(tmp_path: Path) -> None:
    export("random-tiny-vqa", tmp_path / "out", Form())
    ours, theirs = blip_lite.model.load(tmp_path / "out"), blip.load(tmp_path / "out")
    questions, answers = (
        ["what is it?", "how many cups are on the table here?"],
        ["two", "a cup of coffee", "no", "red"],
    )
    for choices, top in ((None, 1), (None, 3), (answers, 4)):
        found, wanted = (model.answer(PHOTO, questions, answers=choices, top=top) for model in (ours, theirs))
        for one, other in zip(found, wanted, strict=True):
            assert (one.text, one.mode) == (other.text, other.mode)
            assert [x.text for x in one.alternatives] == [x.text for x in other.alternatives]
            assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.slow
def test_statements_equal_those_of_torch(tmp_path: Path) -> None:
    export("random-tiny-nlvr", tmp_path / "out", Form())
    ours, theirs = (load(tmp_path / "out") for load in (blip_lite.model.load, blip.load))
    found, wanted = (model.compare(PHOTO, PHOTO, "both show coffee") for model in (ours, theirs))
    assert found.score == pytest.approx(wanted.score, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_other_opsets(captioner: Path, tmp_path: Path, opset: int) -> None:
    done = export(str(captioner), tmp_path / "out", Form(opset=opset))
    assert max(done.exact.values()) < TOLERANCE
    assert onnx_ir.load(tmp_path / "out/decoder.onnx").opset_imports[""] == opset


def test_a_missing_package_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.apps.export.translate.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(MissingExtra, match=r'pip install "blip-vlm\[onnx\]"'):
        export("random-tiny", tmp_path / "out", Form())
    assert list(tmp_path.iterdir()) == []
