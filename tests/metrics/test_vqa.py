"""VQA accuracy, worked out by hand from the official rule."""

from __future__ import annotations

import pytest

from blip.metrics.vqa import normalize_answer, vqa_accuracy
from blip_lite.errors import UsageError


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes", "yes"),
        ("The dog", "dog"),
        ("a man and an apple", "man and apple"),
        ("two", "2"),
        ("none", "0"),
        ("Ten of the cats", "10 of cats"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("ow's'at", "'ow's'at"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),  # the wrong way round in the tool
        ("let's", "let's"),
        ("its", "its"),
        ("red/white", "red white"),  # no space beside the sign: it becomes one
        ("red / white", "red white"),  # a space beside it: it goes
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("well-done", "well done"),
        ("left -handed t-shirt", "left handed tshirt"),  # one space beside any hyphen decides for all
        ("1,000", "1000"),
        ("1,000 re-runs", "1000 reruns"),  # with digits grouped, every sign goes
        ("$5.00", "$5.00"),
        ("3.5", "3.5"),
        ("p.m.", "pm"),
        ("no!", "no"),
        ("what's up?", "what's up"),
        ("one\ttwo\nthree ", "1 2 3"),
        ("", ""),
        ("the", ""),
    ],
)
def test_answers_are_normalized(answer: str, normal: str) -> None:
    assert normalize_answer(answer) == normal


@pytest.mark.parametrize(
    ("same", "accuracy"),
    # of ten: annotators who agree have one match less among the other nine
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)],
)
def test_accuracy_is_the_mean_over_the_people_left_out_in_turn(same: int, accuracy: float) -> None:
    others = [f"other {i}" for i in range(10 - same)]
    assert vqa_accuracy("red", ["red"] * same + others) == pytest.approx(accuracy)


def test_both_sides_are_normalized_where_people_differ() -> None:
    people = ["2", "Two", "two ", "the two", "three", "3", "3", "4", "4", "4"]
    assert vqa_accuracy("TWO!", people) == 1.0
    assert vqa_accuracy("3", people) == pytest.approx(0.9)


def test_nothing_is_normalized_where_people_agree_to_the_letter() -> None:
    assert vqa_accuracy("two", ["two"] * 10) == 1.0
    assert vqa_accuracy("2", ["two"] * 10) == 0.0
    assert vqa_accuracy("Two", ["two"] * 10) == 0.0
    assert vqa_accuracy(" two\n", ["two", "two ", *["two"] * 8]) == 1.0


def test_fewer_than_ten_people_are_enough() -> None:
    # 2 of 3: two see one other match (1/3), one sees two (2/3)
    assert vqa_accuracy("red", ["red", "red", "blue"]) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)


def test_a_single_answer_has_to_be_given() -> None:
    assert vqa_accuracy("Two!", ["2"]) == 1.0
    assert vqa_accuracy("three", ["2"]) == 0.0


def test_a_question_without_answers_is_refused() -> None:
    with pytest.raises(UsageError, match="answers"):
        vqa_accuracy("red", [])
