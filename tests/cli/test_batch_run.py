"""Every verb computes with images that the reading threads have shrunk to the model's size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip.cli.batch_run import BatchRun
from blip.cli.batches import Decoded, DecodedBatch
from blip_lite import load
from blip_lite.model import Model
from tests.cli.conftest import Blip
from tests.waiting import HANG_SECONDS

CASES = Path(__file__).parents[1] / "cases"
SIZE = (900, 500)


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load(threads=1)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    rng = np.random.RandomState(0)
    noise = Image.fromarray(rng.randint(0, 256, (50, 90, 3), dtype=np.uint8))
    noise.resize(SIZE, Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    return tmp_path / "large.png"


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Decoded]:
    """Arguments of the verbs."""
    given: list[Decoded] = []
    run = BatchRun.run

    def spy(self: BatchRun, inputs: Any, models: Any, describe: Any, **options: Any) -> int:
        def watch(batch: DecodedBatch) -> Any:
            given.extend(batch)
            return describe(batch)

        return run(self, inputs, models, watch, **options)

    monkeypatch.setattr(BatchRun, "run", spy)
    return given


def test_images_wait_at_the_size_of_the_model(blip: Blip, large: Path, tiny: Model, batches: list[Decoded]) -> None:
    row = json.loads(blip("caption", large, "--json", "--itm-model", "random-tiny").out)
    side = tiny.config.vision.image_size
    first, second = batches[0].images
    assert first.size == (side, side) and second.width < side
    expected = tiny.caption(large)
    assert (row["width"], row["height"]) == SIZE
    assert row["text"] == expected.text
    assert row["score"] == pytest.approx(expected.score, rel=5e-6)  # 6 significant digits


def test_small_images_wait_unchanged(blip: Blip, photos: Path, batches: list[Decoded]) -> None:
    assert blip("embed", photos / "a.png", "-o", photos / "v.npz").code == 0
    assert batches[0].image.size == batches[0].size == (40, 48)


def test_heat_maps_are_drawn_over_the_full_size(blip: Blip, large: Path, batches: list[Decoded]) -> None:
    assert blip("explain", large, "-m", "random-tiny", "-o", large.parent / "maps").code == 0
    assert batches[0].image.size == SIZE


@pytest.mark.parametrize(
    "verb", [("embed",), ("embed", "--kind", "multimodal", "-t", "a cat"), ("match", "-t", "a cat")]
)
def test_an_orientation_is_applied_once(blip: Blip, tmp_path: Path, verb: tuple[str, ...]) -> None:
    from blip_lite.image import read

    read(CASES / "exif6.jpg").save(tmp_path / "upright.png")
    rows = [
        json.loads(blip(verb[0], path, *verb[1:], "--json").out)
        for path in (CASES / "exif6.jpg", tmp_path / "upright.png")
    ]
    first, second = ({key: value for key, value in row.items() if key != "key"} for row in rows)
    assert first == second


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_silent_pipe_does_not_outlive_a_signal() -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "blip", "caption", f"/dev/fd/{reader}", "-m", "random-tiny"]
    with subprocess.Popen(command, pass_fds=[reader], stderr=subprocess.PIPE, text=True) as process:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(15)
            process.terminate()
            _, errors = process.communicate(timeout=HANG_SECONDS)
        finally:
            process.kill()
            os.close(writer)
            os.close(reader)
    assert "interrupted while waiting for data" in errors and process.returncode == 143
