"""VQA evaluation: one encoding per photo, kinds, chance, answer lists, questions without answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip.data.sources import open_source
from blip.eval.run import run
from blip.eval.vqa import VqaEval
from tests.eval.photos import model, write_list

ROWS: list[dict[str, Any]] = [
    {"image": "red.png", "question_id": 1, "question": "Is it red?", "answer": ["yes"] * 10, "answer_type": "yes/no"},
    {"image": "blue.png", "question_id": 2, "question": "Is it red?", "answer": ["no"] * 10, "answer_type": "yes/no"},
    {
        "image": "red.png",
        "question_id": 3,
        "question": "Which?",
        "answer": ["red"] * 2 + ["a"] * 8,
        "answer_type": "other",
    },
]


def test_answers_are_scored_by_the_official_rule_and_by_kind(tmp_path: Path) -> None:
    source = open_source(write_list(tmp_path, "vqa.json", ROWS))
    predictions = [{"question_id": i, "answer": a} for i, a in ((1, "yes"), (2, "yes"), (3, "The red."))]
    report = VqaEval().score(source, predictions)
    assert report.metrics["accuracy"] == pytest.approx((1 + 0 + 0.6) / 3)
    assert report.metrics["accuracy_yes/no"] == 0.5 and report.metrics["accuracy_other"] == pytest.approx(0.6)
    assert report.measures["accuracy_yes/no"].chance == 0.5
    assert report.rows[0]["question"] == "Is it red?" and report.rows[2]["scores"] == {"accuracy": pytest.approx(0.6)}


@pytest.mark.parametrize("evaluation", [VqaEval(), VqaEval(mode="rank", answers=("yes", "no", "red"), k=2)])
def test_a_model_answers_every_question_once(tmp_path: Path, evaluation: VqaEval) -> None:
    source, loaded = open_source(write_list(tmp_path, "vqa.json", ROWS)), model("vqa")
    report = run(evaluation, loaded.model, loaded.tokenizer, source)
    assert [row["question_id"] for row in report.predictions] == [1, 2, 3]
    if evaluation.answers:
        assert {row["answer"] for row in report.predictions} <= set(evaluation.answers)
    alone = run(evaluation, loaded.model, loaded.tokenizer, open_source(write_list(tmp_path, "one.json", ROWS[2:])))
    assert alone.predictions == report.predictions[2:]


def test_questions_without_answers_are_only_answered(tmp_path: Path) -> None:
    rows = [{"image": "red.png", "question_id": 1, "question": "Is it red?"}]
    source, loaded = open_source(write_list(tmp_path, "vqa.json", rows)), model("vqa")
    report = run(VqaEval(), loaded.model, loaded.tokenizer, source)
    assert len(report.predictions) == 1 and report.skipped == {"accuracy": "the rows have no answers"}
