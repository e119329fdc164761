"""What the tabs compute."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import blip
from blip.api import Model
from blip.apps.demo import models, predictions, tables, uploads
from blip.apps.demo.uploads import EXAMPLES, Limits, Photo
from blip_lite.errors import UsageError


@cache
def model(name: str) -> Model:
    return blip.load(name)


def photo(index: int = 0) -> Photo:
    return uploads.photo(EXAMPLES[index], Limits())


def test_captions_come_best_first_and_once_each() -> None:
    found = predictions.captions(model("tiny"), photo(), "beam", 3, 0.9, 0)
    assert 1 <= len(found) <= 3 and len({one.text for one in found}) == len(found)
    assert found[0].text == model("tiny").caption(photo().image, num_captions=3).text
    assert found[0].score >= found[-1].score - 0.2


def test_sampling_depends_on_its_seed() -> None:
    drawn = [
        tuple(one.text for one in predictions.captions(model("tiny"), photo(), "nucleus", 2, 0.9, seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_maps_have_the_words_under_them() -> None:
    shown = predictions.maps(model("tiny").explain(photo().image, "a cat", subject="caption"))
    assert [word for _, word in shown] == ["all words", "a", "cat"]
    assert {picture.size for picture, _ in shown} == {(480, 320)} or shown[0][0].width == 480
    one = predictions.maps(model("tiny").explain(photo().image, "cat"))
    assert [word for _, word in one] == ["cat"]


def test_answers_are_free_or_out_of_choices() -> None:
    free = predictions.answers(model("tiny-vqa"), photo(), "what animal is this?", [], 3)
    assert len(free) == 3 and free[0][0] == "cat"
    closed = predictions.answers(model("tiny-vqa"), photo(), "what animal is this?", ["dog", "horse"], 5)
    assert {text for text, _ in closed} == {"dog", "horse"}


def test_matching_is_a_table_of_texts_by_photos() -> None:
    html = predictions.matches(model("tiny"), [photo(0), photo(4)], ["a cat", "<b>a rocket"])
    assert html.count("<td") == 4 and html.count("<img") == 2
    assert "&lt;b&gt;a rocket" in html and "<b>" not in html
    chance = model("tiny").match(photo(0).image, "a cat").itm
    assert chance is not None and f"{float(chance[0, 0]):.0%}" in html


def test_a_photo_is_most_like_itself() -> None:
    html = predictions.similarities(model("tiny"), [photo(0), photo(1), photo(4)])
    assert html.count("<td") == 9 and html.count(">1.00<") == 3 and html.count("--heat: 100%") == 3
    with pytest.raises(UsageError, match="at least two"):
        predictions.similarities(model("tiny"), [photo()])


def test_a_cells_shade_stays_between_none_and_all() -> None:
    assert "--heat: 0%" in str(tables.Cell(-0.5, "x")) and "--heat: 100%" in str(tables.Cell(1.5, "x"))
    assert "&lt;" in str(tables.Cell(0.5, "<")) and "<small>y</small>" in str(tables.Cell(0.5, "x", "y"))


def test_the_users_models_come_first_and_the_bundled_ones_fill_the_gaps() -> None:
    names = {"tiny": "pretrain", "tiny-vqa": "vqa", "mine": "caption", "both": "pretrain", "nlvr": "nlvr"}
    made = {name: blip.load_random("tiny", kind=kind) for name, kind in names.items()}  # type: ignore[arg-type]
    found = models.load(["mine"], ["tiny", "tiny-vqa"], made.__getitem__)
    assert found.able("caption") is made["mine"] and found.able("match") is made["tiny"]
    assert found.able("compare") is None and "blip demo -m nlvr-base" in found.by("compare")
    assert made["tiny"] not in models.load(["both"], ["tiny"], made.__getitem__).loaded


def test_examples_are_found_wherever_the_page_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert photo(2).image.size == (512, 512)
