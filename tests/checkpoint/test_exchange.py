from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blip.checkpoint import exchange, files
from blip.checkpoint.load import load, random_tiny
from blip_lite.errors import ConfigError, UsageError
from tests.checkpoint.test_load import folders, small_file  # noqa: F401


def test_conversion_there_and_back_changes_nothing(tmp_path: Path) -> None:
    small_file(tmp_path / "a.pth")
    exchange.convert(tmp_path / "a.pth", tmp_path / "ours", "blip")
    exchange.convert(tmp_path / "ours", tmp_path / "hf", "hf")
    exchange.convert(tmp_path / "hf", tmp_path / "b.safetensors", "original")
    assert exchange.compare(tmp_path / "a.pth", tmp_path / "b.safetensors").same


def test_int8_folder_is_a_quarter_of_the_size(tmp_path: Path) -> None:
    small_file(tmp_path / "a.pth")
    exchange.convert(tmp_path / "a.pth", tmp_path / "ours", "blip")
    exchange.convert(tmp_path / "a.pth", tmp_path / "int8", "blip", int8=True)
    size, small = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("ours", "int8"))
    assert small < 0.3 * size
    result = exchange.compare(tmp_path / "ours", tmp_path / "int8")
    assert result.values and not result.config and max(result.values.values()) < 0.05


def test_existing_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.pth").write_bytes(b"old")
    with pytest.raises(UsageError, match="exists"):
        exchange.convert("random-tiny", tmp_path / "out.pth", "original")
    exchange.convert("random-tiny", tmp_path / "out.pth", "original", overwrite=True)
    assert (tmp_path / "out.pth").stat().st_size > 3


@pytest.mark.parametrize(
    ("layout", "output", "int8"), [("onnx", "m", False), ("hf", "m", True), ("original", "m", False)]
)
def test_impossible_conversions_are_usage_errors(tmp_path: Path, layout: str, output: str, int8: bool) -> None:
    with pytest.raises(UsageError):
        exchange.convert("random-tiny", tmp_path / output, layout, int8=int8)  # type: ignore[arg-type]


def test_family_without_transformers_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no class for 'pretrain'"):
        exchange.convert("random-tiny", tmp_path / "hf", "hf")


def test_imported_model_loads_by_name(tmp_path: Path) -> None:
    model = small_file(tmp_path / "a.pth")
    exchange.import_model(tmp_path / "a.pth", "mine")
    assert torch.equal(load("mine").model.vision.cls_token, model.vision.cls_token)
    with pytest.raises(UsageError, match="imported already"):
        exchange.import_model(tmp_path / "a.pth", "mine")


@pytest.mark.parametrize("name", ["caption-base", "../x", ".hidden", "a/b"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    small_file(tmp_path / "a.pth")
    with pytest.raises(UsageError, match="--as"):
        exchange.import_model(tmp_path / "a.pth", name)


def test_comparison_names_every_difference(tmp_path: Path) -> None:
    loaded = random_tiny("caption")
    state = dict(loaded.model.state_dict())
    files.write_folder(tmp_path / "a", state, loaded.config)
    state["vision.norm.bias"] = state["vision.norm.bias"] + 0.5
    files.write_folder(tmp_path / "b", state, loaded.config)
    result = exchange.compare(tmp_path / "a", tmp_path / "b")
    assert result.values == {"vision.norm.bias": 0.5} and not result.same
    other = exchange.compare("random-tiny-caption", "random-tiny-vqa")
    assert other.config["family"] == ("caption", "vqa") and other.only_second
