"""Loading holds the weights once: files are mapped, and no tensor is copied that has the requested type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blip.checkpoint.files import write_folder, write_hf_folder, write_original
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, TextConfig, VisionConfig

CONFIG = BlipConfig(
    family="caption",
    vision=VisionConfig(image_size=32, width=768, num_layers=4, num_heads=12, mlp_width=3072),
    text=TextConfig(width=768, num_layers=2, num_heads=12, mlp_width=3072),
)
PROGRAM = """
import re, sys
from pathlib import Path
import blip
from blip.checkpoint.load import load
blip.load("random-tiny", dtype=sys.argv[2])  # imports everything, and warms up

def status(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before = status("VmRSS")
model = blip.load(sys.argv[1], dtype=sys.argv[2])
print(status("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of 290 MB in every layout."""
    torch.manual_seed(0)
    folder, state = tmp_path_factory.mktemp("models"), BlipModel(CONFIG).state_dict()
    paths = {"blip": folder / "blip", "hf": folder / "hf", "pth": folder / "model.pth"}
    write_folder(paths["blip"], state, CONFIG)
    write_hf_folder(paths["hf"], state, CONFIG)
    write_original(paths["pth"], state, CONFIG)
    return paths


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak of a part of the program: Linux only")
@pytest.mark.parametrize(
    ("layout", "dtype", "most"),
    # queries, keys and values are one tensor in other layouts, which is split; an hf file has the word embedding twice
    [("blip", "fp32", 1.1), ("pth", "fp32", 1.2), ("hf", "fp32", 1.55), ("blip", "bf16", 1.6), ("pth", "bf16", 1.6)],
)
def test_loading_holds_the_weights_once(stored: dict[str, Path], layout: str, dtype: str, most: float) -> None:
    weights = sum(tensor.nbytes for tensor in BlipModel(CONFIG).state_dict().values())
    program = [sys.executable, "-c", PROGRAM, str(stored[layout]), dtype]
    grown = int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    assert 0.9 * weights < grown < most * weights
