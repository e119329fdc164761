"""Which text of a model is explained, and `Model.explain` as users call it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import blip
from blip_lite.errors import MissingPart, UsageError

CHELSEA = Path("examples/chelsea.png")


def test_a_text_is_matched_where_the_model_can() -> None:
    found = blip.load("tiny").explain(CHELSEA, "a cat on a sofa")
    chance = blip.load("tiny").match(CHELSEA, "a cat on a sofa").itm
    assert (found.subject, found.layer) == ("match", 2)
    assert found.tokens[0] == "[ENC]" and found.tokens[-1] == "[SEP]"
    assert chance is not None and found.score == pytest.approx(float(chance[0, 0]), abs=1e-5)


def test_without_a_text_the_models_own_caption_is_explained() -> None:
    model = blip.load("tiny")
    found, caption = model.explain(CHELSEA), model.caption(CHELSEA)
    assert (found.subject, found.text) == ("caption", caption.text)
    assert found.tokens == caption.tokens and found.score == pytest.approx(caption.score, abs=1e-4)
    assert (found.maps.reshape(len(found.tokens), -1).max(axis=1) > 0).all()


def test_an_answer_is_explained_by_its_question() -> None:
    model = blip.load("tiny-vqa")
    found, answer = model.explain(CHELSEA, "what animal is this?"), model.answer(CHELSEA, "what animal is this?")
    assert (found.subject, found.text) == ("answer", answer.text)
    assert found.score == pytest.approx(answer.score, abs=1e-4)


def test_the_cats_map_peaks_on_the_cat() -> None:
    """The cat fills all but the right border of the photo and a strip above."""
    grid = blip.load("tiny").explain(CHELSEA, "a photo of a cat").map_of("cat")
    column = np.unravel_index(grid.argmax(), grid.shape)[1]
    assert grid.shape == (7, 7) and column <= 5


def test_a_model_that_only_captions_explains_a_given_caption() -> None:
    found = blip.load_random("tiny", kind="caption").explain(CHELSEA, "a cat")
    assert (found.subject, found.tokens) == ("caption", ("a", "cat", "[SEP]"))
    assert found.maps.shape == (3, 2, 2)


def test_what_cannot_be_explained_says_what_is_needed() -> None:
    for kind, text, what in (
        ("retrieval", None, "this model needs a text"),
        ("vqa", None, "this model needs a question"),
        ("vqa", " ", "this model needs a question"),
    ):
        with pytest.raises(UsageError, match=what):
            blip.load_random("tiny", kind=kind).explain(CHELSEA, text)  # type: ignore[arg-type]
    with pytest.raises(MissingPart, match="a 'nlvr' model has no heat-maps"):
        blip.load_random("tiny", kind="nlvr").explain(CHELSEA, "two cats")


def test_explaining_leaves_the_model_as_fast_and_as_right_as_before() -> None:
    model = blip.load_random("tiny")
    before = model.match(CHELSEA, "a cat").itm
    model.explain(CHELSEA, "a cat")
    after = model.match(CHELSEA, "a cat").itm
    assert before is not None and after is not None and np.array_equal(before, after)


def test_a_text_can_be_taken_as_a_caption_of_a_model_that_matches() -> None:
    model = blip.load_random("tiny")
    found = model.explain(CHELSEA, "a cat", subject="caption")
    assert (found.subject, found.tokens) == ("caption", ("a", "cat", "[SEP]")) and found.score < 0
    with pytest.raises(MissingPart, match="no heat-maps of 'answer'; it has of match, caption"):
        model.explain(CHELSEA, "a cat", subject="answer")
