"""Questions made from captions, DAQUAR's in ordinary words, and VQA v2's put to photos that fit."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from experiments.vqa.blind import Guesses
from experiments.vqa.closed_questions import draw
from experiments.vqa.open_questions import open_questions
from experiments.vqa.photo import Photo
from experiments.vqa.real_questions import daquar_questions, spelt
from experiments.vqa.rows import Row, even, taught
from experiments.vqa.text_questions import fits
from experiments.vqa.thing_questions import thing_questions

CAT = Photo("cat", ["A cat sitting on a wooden bench next to a red umbrella."])
ZEBRAS = Photo("zebras", ["Three zebras stand in a field.", "Three zebras eat grass.", "Three zebras near a tree."])


def answers_to(photo: Photo) -> dict[str, dict[str, int]]:
    rows_made = [*thing_questions(photo), *open_questions(photo)]
    return {text: dict(answers) for _, _, answers, texts in rows_made for text in texts if answers}


@pytest.mark.parametrize(
    ("photo", "question", "answer"),
    [
        (CAT, "what is the cat sitting on?", "bench"),
        (CAT, "where is the cat?", "bench"),
        (CAT, "what is on the bench?", "cat"),
        (CAT, "what is the bench made of?", "wood"),
        (CAT, "what color is the umbrella?", "red"),
        (CAT, "how many cats are there?", "1"),
        (ZEBRAS, "how many zebras are there?", "3"),
        (ZEBRAS, "where is this?", "field"),
        (Photo("", ["A bowl of fruit on a table."]), "what is in the bowl?", "fruit"),
        (Photo("", ["A clean kitchen with a stove."]), "what room is this?", "kitchen"),
        (Photo("", ["A passenger jet on a runway."]), "what kind of vehicle is this?", "airplane"),
        (Photo("", ["A fire hydrant on a sidewalk."]), "what is on the sidewalk?", "fire_hydrant"),
    ],
)
def test_captions_answer_a_question(photo: Photo, question: str, answer: str) -> None:
    answers = answers_to(photo)[question]
    assert max(answers, key=answers.__getitem__) == answer


@pytest.mark.parametrize(
    ("caption", "question"),
    [
        ("A cat looks through a window at a statue.", "what is the window looking at?"),
        ("A laptop on a desk next to a lamp.", "what is next to the lamp?"),
        ("A hot dog on a plate.", "how many dogs are there?"),
        ("A passenger train at a station.", "how many people are there?"),
        ("Sheep grazing on grass.", "how many sheep are there?"),
    ],
)
def test_what_captions_leave_open_is_left_out(caption: str, question: str) -> None:
    assert not answers_to(Photo("", [caption])).get(question)


def test_every_yes_has_a_no_to_the_same_question() -> None:
    photos = [Photo(str(i), [f"A {name} in a field."]) for i, name in enumerate(["zebra", "giraffe", "bear"] * 4)]
    counts: dict[str, Counter[str]] = {}
    for _, text, answer, _ in draw(photos, random.Random(0)):
        counts.setdefault(text, Counter())[answer] += 1
    assert any("zebra" in text for text in counts)
    assert all(count["yes"] == count["no"] for count in counts.values())


def test_answers_are_evened_out() -> None:
    many = [
        Row(str(i), "what is on the table?", {"pizza" if i < 80 else f"food {i}": 1}, "what", "on") for i in range(100)
    ]
    answers = Counter(next(iter(row.answers)) for row in even(many, random.Random(0)))
    assert answers["pizza"] == 20 and answers.total() == 40


def test_a_training_row_keeps_answers_that_several_gave() -> None:
    assert taught({"cat": 7, "kitten": 2, "dog": 1}) == {"cat": 7, "kitten": 2}
    assert taught({"cat": 9, "kitten": 1}) == {"cat": 9}


def test_daquar_is_put_in_ordinary_words() -> None:
    rows = [
        {"question": "Whatis right of refridgerator ?", "answers": ["garbage bin"]},
        {"question": "what is on the bed?", "answers": ["pillow, blanket"]},
        {"question": "what colour is the sofa?", "answers": ["black, white"]},
    ]
    rows_made = list(daquar_questions({"questions": rows}))
    assert [question for question, *_ in rows_made[:2]] == ["what is right of refrigerator?", "what is on the bed?"]
    assert [answers for _, answers, *_ in rows_made] == [
        {"trash can": 1},
        {"pillow": 1, "blanket": 1},
        {"black": 1, "white": 1, "black and white": 2},
    ]
    assert [kind for _, _, kind, _ in rows_made] == ["what", "what", "color"]
    assert spelt("How many Excercise balls?") == "how many exercise balls?"


def test_questions_without_photos_go_to_photos_that_fit(tmp_path: Path) -> None:
    photos = [Photo(f"red{i}", ["A red bus on a street."]) for i in range(5)]
    photos += [Photo("blue", ["A blue bus."]), Photo("cats", ["Two cats on a bed."])]
    words = {w: {i for i, p in enumerate(photos) if w in p.vocab} for p in photos for w in p.vocab}
    assert fits(("What color is the bus?", {"red": 10}, "other", ""), photos, words) == [0, 1, 2, 3, 4]
    assert fits(("How many buses are there?", {"1": 10}, "number", ""), photos, words) == [0, 1, 2, 3, 4, 5]
    assert fits(("How many buses are there?", {"2": 10}, "number", ""), photos, words) == []
    assert fits(("Is it?", {"yes": 10}, "yes/no", ""), photos, words) == []


def test_guesses_fall_back_to_the_first_words(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "is it red?", "answer": ["yes"]}\n{"question": "what is it?", "answer": ["cat"]}\n')
    guesses = Guesses([path])
    assert [guesses.answer(text) for text in ("Is it red?", "is it blue?", "what?")] == ["yes", "yes", "cat"]
