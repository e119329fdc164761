from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import blip as package
import blip_lite
from blip_lite.onnx_backend import load
from tests.cli.conftest import Blip


def test_graphs_of_a_part(blip: Blip, photos: Path, tmp_path: Path) -> None:
    result = blip("export", "-m", "random-tiny-caption", "-o", tmp_path / "out", "--parts", "vision")
    assert (result.code, result.out) == (0, f"{tmp_path / 'out'}\n")
    assert result.err.splitlines()[0] == "writing vision.onnx"
    assert result.err.splitlines()[1].startswith("largest difference from torch: ")
    assert [path.name for path in (tmp_path / "out").glob("*.onnx")] == ["vision.onnx"]
    assert load(tmp_path / "out").capabilities == {"image"}
    result = blip("caption", photos / "a.png", "-m", tmp_path / "out", "--backend", "onnx")
    missing = "cannot caption: cross.onnx, decoder.onnx missing; export the model with all graphs"
    assert result.code == 2 and missing in result.err
    assert blip("caption", photos / "a.png", "-m", tmp_path / "out").code == 0, "the weights are there for torch"


@pytest.mark.parametrize("to", ["safetensors", "hf"])
def test_weights_in_other_layouts(blip: Blip, tmp_path: Path, to: str) -> None:
    result = blip("export", "-m", "random-tiny-caption", "--to", to, "-o", tmp_path / "out", "-q")
    assert (result.code, result.err) == (0, "")
    loaded, expected = package.load(tmp_path / "out"), package.load_random("caption")
    assert loaded.backend.module.state_dict().keys() == expected.backend.module.state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to", "tflite"], 2, "--to tflite; must be onnx, web, safetensors or hf"),
        (["--to", "hf", "--parts", "vision"], 2, "--parts with --to hf; must be used with --to onnx or web"),
        (["--parts", "head"], 2, "--parts head; must be one of vision, text, decoder"),
        (["--opset", "7"], 2, "--opset 7; must be an integer from 18 to 23"),
        (["-m", "random-tiny-caption", "--parts", "text"], 3, "has no text; it is a 'caption' model"),
        (["-m", "random-tiny-caption", "--parts", "vision", "--tolerance", "0"], 3, "more than --tolerance 0"),
        (["-m", "captoin-base"], 3, "did you mean 'caption-base'?"),
        (["-m", "caption-base", "--to", "hf", "--offline"], 3, "'caption-base' is not cached and --offline is set"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(
    blip: Blip,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
    result = blip("export", "-o", tmp_path / "out", *arguments)
    assert (
        result.code == code
        and message in result.err.splitlines()[-1]
        and result.err.splitlines()[-1].startswith("blip: ")
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["onnx", "web", "safetensors"])
def test_existing_output_is_kept(blip: Blip, tmp_path: Path, to: str) -> None:
    (tmp_path / "mine.txt").write_text("x")
    result = blip("export", "-m", "random-tiny", "--to", to, "-o", tmp_path)
    assert result.code == 2 and "exists; choose another name or give --overwrite" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_page_of_the_bundled_model_takes_its_graphs(
    blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page gets the graphs of the bundled model; nothing is exported."""
    given: list[Path] = []
    monkeypatch.setattr("blip.apps.export.web.write", lambda folder, output: given.append(folder))
    assert blip("export", "--to", "web", "-o", tmp_path / "page", "-q").code == 0
    assert given == [blip_lite.ASSETS / "tiny"]


def test_help_imports_no_torch() -> None:
    code = "import sys; from blip.cli import main; main(['export', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
