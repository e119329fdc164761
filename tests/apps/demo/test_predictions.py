"""Results of the tabs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

import blip
from blip.apps.demo import models, predictions, uploads
from blip.apps.demo.uploads import EXAMPLES, Limits, Photo
from blip.cli import main
from blip_lite.errors import UsageError
from blip_lite.model import Model


@cache
def model(name: str) -> Model:
    return blip.load(name)


def photo(index: int = 0) -> Photo:
    return uploads.photo(EXAMPLES[index], Limits())


def test_captions_are_ordered_and_distinct() -> None:
    captions = predictions.captions(model("tiny"), photo(), "beam", 3, 0.9, 0)
    assert 1 <= len(captions) <= 3 and len({caption.text for caption in captions}) == len(captions)
    assert captions[0].text == model("tiny").caption(photo().image, num_captions=3).text
    assert captions[0].score >= captions[-1].score - 0.2


def test_sampling_depends_on_its_seed() -> None:
    samples = [
        tuple(caption.text for caption in predictions.captions(model("tiny"), photo(), "nucleus", 2, 0.9, seed))
        for seed in (1, 1, 2)
    ]
    assert samples[0] == samples[1] != samples[2]


def test_heat_maps_are_labelled_with_their_words() -> None:
    images = predictions.heat_maps(model("tiny").explain(photo().image, "a cat", subject="caption"))
    assert [word for _, word in images] == ["all words", "a", "cat"]
    assert {picture.size for picture, _ in images} == {(480, 320)} or images[0][0].width == 480
    single = predictions.heat_maps(model("tiny").explain(photo().image, "cat"))
    assert [word for _, word in single] == ["cat"]


def test_answers_are_generated_or_chosen() -> None:
    generated = predictions.answers(model("tiny-vqa"), photo(), "what animal is this?", [], 3)
    assert len(generated) == 3 and generated[0][0] == "cat"
    chosen = predictions.answers(model("tiny-vqa"), photo(), "what animal is this?", ["dog", "horse"], 5)
    assert {text for text, _ in chosen} == {"dog", "horse"}


def test_match_table() -> None:
    html = predictions.match_table(model("tiny"), [photo(0), photo(4)], ["a cat", "<b>a rocket"])
    assert html.count("<td") == 4 and html.count("<img") == 2
    assert "&lt;b&gt;a rocket" in html and "<b>" not in html
    itm = model("tiny").match(photo(0).image, "a cat").itm
    assert itm is not None and f"{float(itm[0, 0]):.0%}" in html


def test_similarity_table() -> None:
    html = predictions.similarity_table(model("tiny"), [photo(0), photo(1), photo(4)])
    assert html.count("<td") == 9 and html.count(">1.00<") == 3 and html.count("--heat: 100%") == 3
    with pytest.raises(UsageError, match="at least two"):
        predictions.similarity_table(model("tiny"), [photo()])


def test_cell_clips_its_shade_and_escapes_its_texts() -> None:
    assert "--heat: 0%" in predictions.cell(-0.5, "x") and "--heat: 100%" in predictions.cell(1.5, "x")
    assert "&lt;" in predictions.cell(0.5, "<") and "<small>y</small>" in predictions.cell(0.5, "x", "y")


def test_bundled_models_add_missing_capabilities() -> None:
    names = {"tiny": "pretrain", "tiny-vqa": "vqa", "mine": "caption", "both": "pretrain", "nlvr": "nlvr"}
    loaded = {name: blip.load_random(kind) for name, kind in names.items()}  # type: ignore[arg-type]
    available = models.load(["mine"], ["tiny", "tiny-vqa"], loaded.__getitem__)
    assert available.first_capable("caption") is loaded["mine"] and available.first_capable("match") is loaded["tiny"]
    assert available.first_capable("compare") is None and "blip demo -m nlvr-base" in available.credit("compare")
    assert loaded["tiny"] not in models.load(["both"], ["tiny"], loaded.__getitem__).loaded


def test_examples_do_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert photo(2).image.size == (512, 512)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_captions_equal_those_of_the_command_line(capsys: pytest.CaptureFixture[str], count: int) -> None:
    """The page computes with torch, the command line with onnxruntime if it can."""
    main(["caption", *EXAMPLES, "-n", str(count), "--json", "--quiet"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for i, record in enumerate(records):
        captions = predictions.captions(model("tiny"), photo(i), "beam", count, 0.9, 0)
        expected = [record["text"], *(other["text"] for other in record.get("alternatives", []))]
        assert [caption.text for caption in captions] == list(dict.fromkeys(expected))
