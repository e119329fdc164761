"""Engines, API and command lines agree with `expected_tiny.json` on the example photos; `make renew` writes that file.

Properties at the end do not depend on recorded values: new weights must have them, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blip
import blip_lite
from blip import api
from blip.apps.doctor import selftest
from blip.checkpoint import sums
from blip.cli import main
from blip_lite.cli import main as lite
from tests.expected import FILE, expected

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".png", ".jpg"))
EVERYDAY = sorted((ROOT / "examples/everyday").glob("*.jpg"))  # shown in README.md
TEXTS = ["a cat", "a cup of coffee on a table", "a man with a camera", "a rocket"]
QUESTION = "what is in the picture?"
BUNDLED = (blip_lite.ASSETS / "tiny", Path(blip.__file__).parent / "assets" / "tiny-vqa")
TOLERANCE = 1e-3  # of scores and vectors between processors


@pytest.fixture(scope="module", autouse=True)
def recorded(renew: bool) -> dict[str, Any]:
    """The recorded values, first written again with --renew."""
    if renew:
        model = blip_lite.load()
        FILE.write_text(json.dumps(measure(model), indent=1, ensure_ascii=False) + "\n", "utf-8")
        selftest.RECORDED.write_text(json.dumps(doctor_values(), ensure_ascii=False) + "\n", "utf-8")
        for folder in BUNDLED:
            sums.write(folder)
    return expected()


def measure(model: blip_lite.Model) -> dict[str, Any]:
    answers = api.open_model("tiny-vqa", backend="onnx")
    return {
        "captions": {path.name: model.caption(path).text for path in EXAMPLES},
        "everyday": {path.name: model.caption(path).text for path in EVERYDAY},
        "answers": {path.name: answers.answer(path, QUESTION).text for path in EXAMPLES},
        "match": {path.name: [round(float(x), 4) for x in itm_of(model, path)] for path in EXAMPLES},
        "vectors": {path.name: rounded(model.embed_image([path]).vectors[0][:4]) for path in EXAMPLES},
    }


def itm_of(model: Any, path: Path) -> Any:
    return np.ravel(model.match(path, TEXTS).itm)


def rounded(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]


def doctor_values() -> dict[str, Any]:
    model = api.load("tiny", device="cpu", dtype="fp32")
    vector = model.embed_image([selftest.PHOTO]).vectors[0][:8]
    return {"caption": model.caption(selftest.PHOTO).text, "vector": rounded(vector)}


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_both_backends_say_what_is_recorded(recorded: dict[str, Any], backend: Any) -> None:
    model, answers = api.open_model("tiny", backend=backend), api.open_model("tiny-vqa", backend=backend)
    for path in EXAMPLES:
        assert model.caption(path).text == recorded["captions"][path.name]
        assert answers.answer(path, QUESTION).text == recorded["answers"][path.name]
        np.testing.assert_allclose(itm_of(model, path), recorded["match"][path.name], atol=TOLERANCE)
        vector = np.asarray(model.embed_image([path]).vectors[0][:4])
        np.testing.assert_allclose(vector, recorded["vectors"][path.name], atol=TOLERANCE)


@pytest.mark.parametrize("program", [main, lite])
def test_the_command_lines_say_what_is_recorded(
    recorded: dict[str, Any], program: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["caption", *map(str, EXAMPLES)]) == 0
    lines = [f"{path}\t{recorded['captions'][path.name]}" for path in EXAMPLES]
    assert capsys.readouterr().out.splitlines() == lines


def test_the_everyday_photos_have_the_recorded_captions(recorded: dict[str, Any]) -> None:
    model = blip_lite.load()
    assert {path.name: model.caption(path).text for path in EVERYDAY} == recorded["everyday"]


def test_doctor_records_what_the_model_computes() -> None:
    values, now = json.loads(selftest.RECORDED.read_text("utf-8")), doctor_values()
    assert values["caption"] == now["caption"], "run 'make renew'"
    np.testing.assert_allclose(values["vector"], now["vector"], atol=TOLERANCE)


def test_the_recorded_sums_are_those_of_the_files() -> None:
    for folder in BUNDLED:
        assert "model.safetensors" in sums.verify(folder), "run 'make renew'"


def test_the_right_text_matches_best_and_captions_are_sentences(recorded: dict[str, Any]) -> None:
    model = blip_lite.load()
    itc = model.match(ROOT / "examples" / "chelsea.png", TEXTS).itc
    assert itc is not None and int(np.argmax(itc)) == 0
    assert len(set(recorded["captions"].values())) == len(EXAMPLES)
    for caption in recorded["captions"].values():
        assert 3 <= len(caption.split()) <= 25 and "[" not in caption
