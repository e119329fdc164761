"""Bundled models run on onnxruntime by default, without torch; whatever that cannot do runs on torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip import api
from blip.model import int8_linear
from blip.torch_backend import TorchBackend
from blip_lite.errors import BlipError, MissingPart
from blip_lite.onnx_backend import OnnxBackend
from tests.cli.conftest import Blip

PHOTOS = Path(__file__).parents[2] / "examples"
PHOTO = str(PHOTOS / "coffee.png")
COMMANDS = {
    "caption": [PHOTO],
    "ask": [PHOTO, "-q", "what is on the table?"],
    "match": [PHOTO, "-t", "a cup of coffee", "-t", "a cat"],
    "embed": [PHOTO],
    "search": ["a cup of coffee", "--no-update"],
}
# packages that cost time to import, and that these commands do not need
HEAVY = ("torch", "httpx2", "huggingface_hub", "pyarrow", "rich", "gradio", "omegaconf", "yaml", "transformers")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP_HOME with an index of the example photos."""
    folder = tmp_path_factory.mktemp("home")
    index = [sys.executable, "-m", "blip", "index", str(PHOTOS), "-q"]
    subprocess.run(index, env={**os.environ, "BLIP_HOME": str(folder)}, check=True)
    return folder


@pytest.mark.parametrize("verb", COMMANDS)
def test_nothing_heavy_is_imported(verb: str, home: Path) -> None:
    code = (
        "import sys\nfrom blip.cli import main\ncode = main(sys.argv[1:])\n"
        f"imported = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not imported, imported\nsys.exit(code)"
    )
    command = [sys.executable, "-c", code, verb, *COMMANDS[verb], "-m", "tiny-vqa" if verb == "ask" else "tiny"]
    done = subprocess.run(command, env={**os.environ, "BLIP_HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize("verb", COMMANDS)
def test_backends_agree(verb: str, home: Path, blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP_HOME", str(home))
    results = [blip(verb, *COMMANDS[verb], "--json", "--backend", backend) for backend in ("torch", "onnx")]
    assert [result.code for result in results] == [0, 0]
    records = [[json.loads(line) for line in result.out.splitlines()] for result in results]
    assert len(records[0]) == len(records[1]) > 0
    for ours, theirs in zip(*records, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_equal(ours[name], theirs[name])


def assert_equal(first: Any, second: Any) -> None:
    if isinstance(first, float | list):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-3)
    else:
        assert first == second


@pytest.mark.parametrize(
    ("name", "options", "backend"),
    [
        ("tiny", {}, OnnxBackend),
        ("tiny-vqa", {"needs": ["answer"]}, OnnxBackend),
        ("tiny", {"needs": ["caption"], "device": "cpu", "dtype": "fp32", "image_size": 224}, OnnxBackend),
        ("tiny", {"backend": "torch"}, TorchBackend),
        ("tiny", {"needs": ["sample"]}, TorchBackend),
        ("tiny", {"dtype": "bf16"}, TorchBackend),
        ("tiny", {"image_size": 256}, TorchBackend),
        ("random-tiny", {}, TorchBackend),
    ],
)
def test_the_backend_supports_what_is_requested(name: str, options: dict[str, Any], backend: type) -> None:
    assert type(api.open_model(name, **options).backend) is backend


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny", {"device": "cuda"}, "backend onnx; device cuda is not supported with onnxruntime"),
        ("tiny", {"dtype": "bf16"}, "backend onnx; dtype bf16 is not supported with onnxruntime"),
        ("tiny", {"dtype": "int8"}, "backend onnx; dtype int8 is not supported with onnxruntime"),
        ("tiny", {"compile": True}, "backend onnx; compile True is not supported with onnxruntime"),
        ("tiny", {"image_size": 256}, "backend onnx; image size 256; the graphs of 'tiny' have 224"),
        ("tiny", {"needs": ["sample"]}, "backend onnx; model 'tiny' cannot sample: not supported with onnxruntime"),
        ("random-tiny", {}, "backend onnx; model 'random-tiny' has no exported graphs"),
    ],
)
def test_onnx_is_refused_with_the_reason(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BlipError, match=message):
        api.open_model(name, backend="onnx", **options)


@pytest.mark.skipif(not int8_linear.supports(), reason="not supported by this torch or processor")
def test_8_bits_are_an_option_of_inference_only(blip: Blip) -> None:
    result = blip("caption", PHOTO, "--dtype", "int8", "--device", "cpu")
    assert result.code == 0 and "coffee" in result.out
    result = blip("train", "caption", "--data", PHOTO, "--dtype", "int8", "-o", "none")
    assert result.code != 0 and "dtype int8: must be auto, fp32 or bf16" in result.err


def test_unknown_backends_and_missing_capabilities_are_one_line(blip: Blip) -> None:
    result = blip("caption", PHOTO, "--backend", "tensorrt")
    assert result.code == 2 and "--backend tensorrt; must be" in result.err
    with pytest.raises(MissingPart, match="cannot answer; models of the family vqa can"):
        api.open_model("tiny", needs=["answer"])
