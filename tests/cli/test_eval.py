"""`blip eval` from the command line: every task, files written, thresholds, comparisons, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Blip
from tests.eval.photos import caption_rows, write_list
from tests.record_schemas import problem
from tests.train.photos import COLOURS

QUIET = ("--device", "cpu", "--no-progress", "--bootstrap", "20", "--meteor-spice", "never")


def lists(folder: Path) -> dict[str, Path]:
    """Reference data of every task for the same eight photos."""
    names = list(COLOURS)
    rows: dict[str, list[dict[str, Any]]] = {
        "caption": caption_rows(),
        "nocaps": [{"image": f"{name}.png", "img_id": str(i)} for i, name in enumerate(names)],
        "retrieval": caption_rows(),
        "vqa": [
            {"image": f"{name}.png", "question_id": i, "question": "Which?", "answer": [name] * 10}
            for i, name in enumerate(names)
        ],
        "nlvr": [
            {"images": ["red.png", f"{name}.png"], "sentence": "both are red", "label": str(name == "red")}
            for name in names
        ],
        "judgements": [{"image": f"{name}.png", "caption": "a red wall", "rating": i} for i, name in enumerate(names)],
    }
    return {task: write_list(folder, f"{task}.json", values) for task, values in rows.items()}


MODELS = {
    "caption": "random-tiny",
    "nocaps": "random-tiny",
    "retrieval": "random-tiny",
    "vqa": "random-tiny-vqa",
    "nlvr": "random-tiny-nlvr",
    "judgements": "random-tiny",
}


@pytest.mark.parametrize("task", MODELS)
def test_every_task_is_evaluated_and_written(blip: Blip, tmp_path: Path, task: str) -> None:
    data, out = lists(tmp_path / "data")[task], tmp_path / "out"
    result = blip("eval", task, "--data", data, "-m", MODELS[task], "-o", out, *QUIET)
    assert result.code == 0, result.err
    metrics = json.loads((out / "metrics.json").read_text())
    assert problem(metrics) is None and metrics["model"].startswith("random-tiny") and metrics["task"] == task
    rows = [json.loads(line) for line in (out / "examples.jsonl").read_text().splitlines()]
    assert rows and all(problem(row) is None for row in rows) and (out / "report.html").is_file()
    printed = [line.split("\t")[0] for line in result.out.splitlines()]
    assert printed == list(metrics["metrics"])


def test_written_predictions_have_the_same_metrics_without_a_model(blip: Blip, tmp_path: Path) -> None:
    data_files = lists(tmp_path / "data")
    for task in ("caption", "vqa", "nlvr", "retrieval"):
        out = tmp_path / task
        first = blip("eval", task, "--data", data_files[task], "-m", MODELS[task], "-o", out, *QUIET)
        again = blip("eval", task, "--data", data_files[task], "--predictions", out / "predictions.json", *QUIET)
        assert again.code == 0 and again.out == first.out


def test_metrics_are_chosen_and_thresholds_set_the_exit_code(blip: Blip, tmp_path: Path) -> None:
    data, result = lists(tmp_path / "data")["caption"], tmp_path / "result.json"
    result.write_text(
        json.dumps([{"image_id": i, "caption": f"one wall painted {name}"} for i, name in enumerate(COLOURS)])
    )
    args = ("eval", "caption", "--data", data, "--predictions", result, *QUIET)
    assert [line.split("\t")[:2] for line in blip(*args, "--metrics", "bleu,rouge_l").out.splitlines()] == [
        *([f"bleu{n}", "1"] for n in range(1, 5)),
        ["rouge_l", "1"],
    ]
    assert blip(*args, "--fail-under", "bleu4=0.9").code == 0
    low = blip(*args, "--fail-under", "cider=11")
    assert low.code == 1 and "is below 11" in low.err


def test_two_evaluations_are_compared_example_by_example(blip: Blip, tmp_path: Path) -> None:
    data = lists(tmp_path / "data")["vqa"]
    for name, right in (("good", 8), ("bad", 0)):
        answers = [{"question_id": i, "answer": c if i < right else "x"} for i, c in enumerate(COLOURS)]
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
    args = ("eval", "vqa", "--data", data, *QUIET)
    assert blip(*args, "--predictions", tmp_path / "bad.json", "-o", tmp_path / "bad").code == 0
    result = blip(
        *args, "--predictions", tmp_path / "good.json", "--compare", tmp_path / "bad", "-o", tmp_path / "good"
    )
    assert "accuracy: +1 (1 to 1, 8 examples): clear" in result.err
    assert json.loads((tmp_path / "good" / "metrics.json").read_text())["compared"]["accuracy"]["n"] == 8


def test_submissions_are_written(blip: Blip, tmp_path: Path) -> None:
    data, file = lists(tmp_path / "data")["nocaps"], tmp_path / "nocaps.json"
    assert blip("eval", "nocaps", "--data", data, "-m", "random-tiny", "--submission", file, *QUIET).code == 0
    rows = json.loads(file.read_text())
    assert [row["image_id"] for row in rows] == list(range(8)) and set(rows[0]) == {"image_id", "caption"}


def test_broken_rows_stop_or_are_counted(blip: Blip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = lists(tmp_path / "data")["vqa"]
    rows = json.loads(data.read_text())
    data.write_text(json.dumps([*rows, {"image": "red.png", "answer": "x"}, {"image": "no.png", "question": "a?"}]))
    args = ("eval", "vqa", "--data", data, "-m", "random-tiny-vqa", *QUIET)
    result = blip(*args)
    assert result.code == 1 and "vqa.json:9: no text in column 'question'" in result.err and not result.out
    result = blip(*args, "--skip-bad", "-o", tmp_path / "out")
    assert result.code == 0 and "8 examples, 2 failed" in result.err
    assert "vqa.json:9: no text" in caplog.text and "no.png: no such file" in caplog.text
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["failed"] == 2


def test_errors_are_one_line(blip: Blip, tmp_path: Path) -> None:
    data_files = lists(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("{}")
    (tmp_path / "other.json").write_text('[{"question_id": 99, "answer": "x"}]')
    data = data_files["vqa"]
    for args, code, message in (
        ((), 2, "no task; must be one of caption"),
        (("captoin",), 2, "unknown task 'captoin'; did you mean 'caption'?"),
        (("vqa",), 2, "no data; give --data"),
        (("vqa", "--data", data, "-o", tmp_path / "out"), 2, "holds an evaluation; choose another folder"),
        (("vqa", "--data", data, "--fail-under", "accuracy"), 2, "--fail-under accuracy; must be METRIC=NUMBER"),
        (("vqa", "--data", data, "-m", "random-tiny"), 3, "cannot answer; models of the family vqa can; use vqa-base"),
        (("vqa", "--data", data, "--mode", "rank"), 2, "--mode rank needs the answers to choose from"),
        (("vqa", "--data", data, "--predictions", tmp_path / "other.json"), 2, "no prediction matches a row"),
        (("vqa", "--data", data, "--predictions", tmp_path / "no.json"), 2, "no.json: No such file"),
        (
            ("nlvr", "--data", data_files["nlvr"], "--order", "left"),
            2,
            "order 'left': must be one of given, both, random",
        ),
        (("caption", "--data", tmp_path / "none"), 2, "none: no such file"),
    ):
        result = blip("eval", *args, *QUIET[:-2])
        assert result.code == code and message in result.err, (args, result.err)
        assert len(result.err.splitlines()) == 1 or code == 3
