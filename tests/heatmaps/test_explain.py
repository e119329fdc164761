"""`Model.explain`: which text is explained, and its tokens, maps and score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import blip
from blip_lite.errors import MissingPart, UsageError

CHELSEA = Path("examples/chelsea.png")


def test_a_text_is_matched_if_the_model_can_match() -> None:
    explanation = blip.load("tiny").explain(CHELSEA, "a cat on a sofa")
    itm = blip.load("tiny").match(CHELSEA, "a cat on a sofa").itm
    assert (explanation.subject, explanation.layer) == ("match", 2)
    assert explanation.tokens[0] == "[ENC]" and explanation.tokens[-1] == "[SEP]"
    assert itm is not None and explanation.score == pytest.approx(float(itm[0, 0]), abs=1e-5)


def test_without_a_text_the_generated_caption_is_explained() -> None:
    model = blip.load("tiny")
    explanation, caption = model.explain(CHELSEA), model.caption(CHELSEA)
    assert (explanation.subject, explanation.text) == ("caption", caption.text)
    assert explanation.tokens == caption.tokens and explanation.score == pytest.approx(caption.score, abs=1e-4)
    assert (explanation.maps.reshape(len(explanation.tokens), -1).max(axis=1) > 0).all()


def test_the_answer_to_a_question_is_explained() -> None:
    model = blip.load("tiny-vqa")
    explanation = model.explain(CHELSEA, "what animal is this?")
    answer = model.answer(CHELSEA, "what animal is this?")
    assert (explanation.subject, explanation.text) == ("answer", answer.text)
    assert explanation.score == pytest.approx(answer.score, abs=1e-4)


def test_the_map_of_cat_peaks_on_the_cat() -> None:
    """The cat fills the photo except for the right border and a strip at the top."""
    grid = blip.load("tiny").explain(CHELSEA, "a photo of a cat").map_of("cat")
    column = np.unravel_index(grid.argmax(), grid.shape)[1]
    assert grid.shape == (7, 7) and column <= 5


def test_a_caption_model_explains_a_given_caption() -> None:
    explanation = blip.load_random("caption").explain(CHELSEA, "a cat")
    assert (explanation.subject, explanation.tokens) == ("caption", ("a", "cat", "[SEP]"))
    assert explanation.maps.shape == (3, 2, 2)


def test_errors_name_what_the_model_needs() -> None:
    for family, text, message in (
        ("retrieval", None, "this model needs a text"),
        ("vqa", None, "this model needs a question"),
        ("vqa", " ", "this model needs a question"),
    ):
        with pytest.raises(UsageError, match=message):
            blip.load_random(family).explain(CHELSEA, text)  # type: ignore[arg-type]
    with pytest.raises(MissingPart, match="a 'nlvr' model has no heat-maps"):
        blip.load_random("nlvr").explain(CHELSEA, "two cats")


def test_explaining_does_not_change_later_results() -> None:
    model = blip.load_random()
    before = model.match(CHELSEA, "a cat").itm
    model.explain(CHELSEA, "a cat")
    after = model.match(CHELSEA, "a cat").itm
    assert before is not None and after is not None and np.array_equal(before, after)


def test_a_model_that_matches_can_explain_a_text_as_a_caption() -> None:
    model = blip.load_random()
    explanation = model.explain(CHELSEA, "a cat", subject="caption")
    assert (explanation.subject, explanation.tokens) == ("caption", ("a", "cat", "[SEP]")) and explanation.score < 0
    with pytest.raises(MissingPart, match="no heat-maps of 'answer'; must be one of match, caption"):
        model.explain(CHELSEA, "a cat", subject="answer")
