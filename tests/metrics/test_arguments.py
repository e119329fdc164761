"""Arguments of the metrics: the reference scorer's form is accepted, everything else is refused with the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from blip.eval import score_captions
from blip.eval.meteor_spice import scores
from blip.metrics.agreement import kendall_tau_b, kendall_tau_c
from blip.metrics.caption import Cider, bleu_counts, rouge_l, tokenize
from blip.metrics.vqa import normalize_answer, vqa_accuracy
from blip_lite.errors import UsageError

REFERENCES = [["a cat on a sofa", "a cat"], ["a rocket starts"], ["two dogs run on grass"]]
CAPTIONS = ["a cat on a bed", "a rocket", "dogs on grass"]
IDS = ["abc", 7, "def"]


@pytest.mark.parametrize(
    ("references", "captions"),
    [
        (dict(zip(IDS, REFERENCES, strict=True)), {name: [text] for name, text in zip(IDS, CAPTIONS, strict=True)}),
        (
            {name: [{"caption": text} for text in texts] for name, texts in zip(IDS, REFERENCES, strict=True)},
            {name: [{"caption": text, "id": 1}] for name, text in reversed(list(zip(IDS, CAPTIONS, strict=True)))},
        ),
        (dict(zip(IDS, REFERENCES, strict=True)), dict(zip(IDS, CAPTIONS, strict=True))),
        (tuple(map(tuple, REFERENCES)), np.array(CAPTIONS)),
    ],
)
def test_dicts_by_id_are_scored_like_lists(references: Any, captions: Any) -> None:
    assert score_captions(references, captions) == pytest.approx(score_captions(REFERENCES, CAPTIONS))


@pytest.mark.parametrize(
    ("references", "captions", "problem"),
    [
        (REFERENCES, "a cat", "captions is a text; must be a list"),
        (REFERENCES, set(CAPTIONS), "captions is a set, which has neither order nor repetitions; must be a list"),
        (REFERENCES, None, "captions is None; must be a list"),
        (["a cat", "a dog"], ["a cat", "a dog"], r"references\[0\] is a text; must be a list"),
        (REFERENCES, ["a", "b", None], r"captions\[2\] is None; must be a text"),
        (REFERENCES, ["a", "b", float("nan")], r"captions\[2\] is nan; must be a text"),
        ([["a"], ["b", 3]], ["a", "b"], r"references\[1\]\[1\] is of type int; must be a text"),
        (REFERENCES, CAPTIONS[:2], "2 captions and 3 lists of references; must be one per caption"),
        ([], [], "0 captions and 0 lists of references"),
        ([["a"], []], ["a", "b"], r"references\[1\] has no reference; give at least one"),
        ({1: ["a"]}, ["a"], "one is a dict; both must be dicts by id, or both lists"),
        ({1: ["a"], 2: ["b"]}, {1: ["a"]}, r"1 without a caption and 0 without references \(2\); must be the same ids"),
        ({1: ["a"]}, {1: ["a", "b"]}, r"captions\[1\] has 2 captions; must be one"),
        ({1: "a cat"}, {1: ["a"]}, r"references\[1\] is a text; must be a list"),
        ({1: [{"text": "a"}]}, {1: ["a"]}, r"references\[1\]\[0\] is None; must be a text"),
        ({}, {}, "0 ids with references and 0 with captions"),
    ],
)
def test_other_arguments_of_caption_scores_are_refused(references: Any, captions: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        score_captions(references, captions)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: vqa_accuracy("yes", "yes"), "answers is a text; must be a list"),  # type: ignore[arg-type]
        (lambda: vqa_accuracy(1, ["yes"]), "prediction is of type int; must be a text"),  # type: ignore[arg-type]
        (lambda: vqa_accuracy("yes", [{"answer": "yes"}]), r"answers\[0\] is a dict; must be a text"),  # type: ignore[list-item]
        (lambda: vqa_accuracy("yes", []), "this question has none"),
        (lambda: normalize_answer(["yes"]), "answer is of type list; must be a text"),  # type: ignore[arg-type]
        (lambda: tokenize(None), "text is None; must be a text"),  # type: ignore[arg-type]
        (lambda: rouge_l(["a cat"], ["a", "cat"]), "a reference is a text; must be a list of tokens"),
        (lambda: rouge_l([["a"]], "a cat"), "caption is a text; must be a list of tokens"),
        (lambda: bleu_counts([], ["a"]), "no references; give at least one"),
        (lambda: Cider([[["a"]], [["b"]]]).score(0, "a cat"), "caption is a text"),
        (lambda: Cider([["a cat"]]), "a reference is a text"),
        (lambda: Cider([]), "at least one image"),
        (lambda: kendall_tau_b([1, 2], [1]), "agreement of 2 values with 1; counts must match"),
        (lambda: kendall_tau_c("12", "12"), "x has 0 dimensions; must be numbers"),  # type: ignore[arg-type]
        (lambda: kendall_tau_b([1, float("nan")], [1, 2]), r"x\[1\] is not finite"),
        (lambda: kendall_tau_b([[1, 2]], [[1, 2]]), "x has 2 dimensions"),  # type: ignore[list-item]
        (lambda: kendall_tau_b([1, 2], ["a", "b"]), "y: must be numbers"),  # type: ignore[list-item]
        (lambda: scores([["a"]], "a"), "captions is a text"),
    ],
)
def test_other_arguments_are_refused(call: Callable[[], object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        call()


def test_cider_of_one_image_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    assert score_captions([["a cat"]], ["a cat"])["cider"] == 0
    assert "CIDEr is 0 for a single image" in caplog.text
    caplog.clear()
    score_captions(REFERENCES, CAPTIONS)
    assert not caplog.text
