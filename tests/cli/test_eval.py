"""`blip eval` from the command line: every task, files written, thresholds, comparisons, one-line errors."""

from __future__ import annotations

import json
import os
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


def test_half_of_the_predictions_are_an_error(blip: Blip, tmp_path: Path) -> None:
    data, half = tmp_path / "truth.jsonl", tmp_path / "half.json"
    rows = [
        {"image": "cat.png", "captions": ["a cat on a sofa", "a cat"], "image_id": "abc"},
        {"image": "same_stem/photo.jpg", "captions": ["a rocket starts"], "image_id": "def"},
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    half.write_text('[{"image_id": "abc", "caption": "a cat on a sofa"}]')
    args = ("eval", "caption", "--data", data, "--predictions", half, "--fail-under", "bleu1=0.5", *QUIET)
    result = blip(*args)
    assert result.code == 2 and not result.out
    problem = "1 of 2 ids in the data has no prediction ('def'); --allow-missing scores the others"
    assert result.err == f"blip: error: {problem}\n"
    allowed = blip(*args, "--allow-missing", "-o", tmp_path / "out")
    assert allowed.code == 0 and "1 of 2 ids in the data has no prediction ('def'); not counted" in allowed.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["missing"] == 1
    half.write_text('[{"img": "abc", "said": "a cat on a sofa"}]')
    result = blip(*args)
    assert result.code == 1
    assert "half.json:1: has the fields 'img', 'said'; a prediction needs 'image_id' (or" in result.err


def test_our_submissions_are_scored(blip: Blip, tmp_path: Path) -> None:
    data_files = lists(tmp_path / "data")
    for task, ending in (("vqa", "json"), ("nlvr", "csv"), ("caption", "json")):
        file = tmp_path / f"{task}.{ending}"
        args = ("eval", task, "--data", data_files[task], *QUIET)
        first = blip(*args, "-m", MODELS[task], "--submission", file)
        again = blip(*args, "--predictions", file)
        assert first.code == again.code == 0 and again.out == first.out


def test_a_metric_that_is_not_a_number_fails(blip: Blip, tmp_path: Path) -> None:
    data, file = lists(tmp_path / "data")["judgements"], tmp_path / "scores.json"
    rows = [{"key": f"{name}.png", "text": "a red wall", "itm": 0.5, "itc": i / 8} for i, name in enumerate(COLOURS)]
    file.write_text(json.dumps(rows))
    result = blip("eval", "judgements", "--data", data, "--predictions", file, *QUIET)
    assert result.code == 1 and "tau_c_itm: left out, is nan: the scores are constant" in result.err


def test_a_metric_that_was_not_computed_is_below_every_threshold(blip: Blip, tmp_path: Path) -> None:
    data, file = lists(tmp_path / "data")["vqa"], tmp_path / "answers.json"
    file.write_text(json.dumps([{"question_id": i, "answer": name} for i, name in enumerate(COLOURS)]))
    args = ("eval", "vqa", "--data", data, "--predictions", file, *QUIET)
    result = blip(*args, "--fail-under", "accuracy_other=0.1")
    assert result.code == 1 and "--fail-under accuracy_other: not computed" in result.err


def test_predictions_without_references_need_a_place(blip: Blip, tmp_path: Path) -> None:
    data = lists(tmp_path / "data")["nocaps"]
    result = blip("eval", "nocaps", "--data", data, "-m", "random-tiny", *QUIET)
    assert result.code == 2 and "no metric can be computed (all metrics: the data have no reference" in result.err


def test_a_folder_that_cannot_be_written_is_refused_before_work(
    blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    data = lists(tmp_path / "data")["caption"]
    monkeypatch.setattr("blip.eval.results.tempfile.TemporaryFile", refuse)
    result = blip("eval", "caption", "--data", data, "-m", "random-tiny", "-o", tmp_path / "out", *QUIET)
    assert result.code == 4 and result.err.endswith("out: cannot be written (Read-only file system)\n")
    file = tmp_path / "elsewhere" / "submission.json"
    result = blip("eval", "caption", "--data", data, "-m", "random-tiny", "--submission", file, *QUIET)
    assert result.code == 4 and result.err.endswith("elsewhere: cannot be written (Read-only file system)\n")


def test_no_folder_is_created_before_the_data_are_open(blip: Blip, tmp_path: Path) -> None:
    flags = ("-o", tmp_path / "out", "--submission", tmp_path / "b" / "said.json")
    result = blip("eval", "caption", "--data", tmp_path / "none.json", "-m", "random-tiny", *flags, *QUIET)
    assert result.code == 2 and not {"out", "b"} & set(os.listdir(tmp_path))
    (tmp_path / "file").touch()
    result = blip("eval", "caption", "--data", "x.json", "-m", "random-tiny", "-o", tmp_path / "file" / "out", *QUIET)
    assert result.code == 4 and "file/out: cannot be written (" in result.err


def test_predictions_fit_data_in_another_folder(blip: Blip, tmp_path: Path) -> None:
    """Rows of VQA and NLVR2 without an id of their own."""
    rows = {
        "vqa": [{"image": "red.png", "question": q, "answer": ["yes"]} for q in ("Is it red?", "Is it blue?")],
        "nlvr": [{"images": ["red.png", "blue.png"], "sentence": "two walls", "label": t} for t in ("True", "False")],
    }
    for task, content in rows.items():
        files = []
        for name in ("here", "there"):
            folder = tmp_path / name
            lists(folder)
            files.append(folder / f"{task}-rows.json")
            files[-1].write_text(json.dumps(content))
        out = tmp_path / task
        assert blip("eval", task, "--data", files[0], "-m", f"random-tiny-{task}", "-o", out, *QUIET).code == 0
        result = blip("eval", task, "--data", files[1], "--predictions", out, *QUIET)
        assert result.code == 0 and "accuracy" in result.out, result.err
        predictions = json.loads((out / "predictions.json").read_text())
        ids = [row.get("question_id", row.get("identifier")) for row in predictions]
        assert ids == [f"{task}-rows.json:1", f"{task}-rows.json:2"]


def test_a_full_disk_keeps_the_earlier_evaluation(blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, file, out = lists(tmp_path / "data")["caption"], tmp_path / "said.json", tmp_path / "out"
    args = ("eval", "caption", "--data", data, "--predictions", file, "-o", out, *QUIET)
    file.write_text(json.dumps([{"image_id": i, "caption": "a wall"} for i in range(8)]))
    assert blip(*args).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "predictions" in path.name:
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    result = blip(*args, "--overwrite", "--metrics", "cider")
    assert result.code == 4 and "no space left on the disk" in result.err and len(result.err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


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
    assert "accuracy: +1 (1 to 1, 8 examples, 8 changed, p 0.0078): clear" in result.err
    assert json.loads((tmp_path / "good" / "metrics.json").read_text())["compared"]["accuracy"]["n"] == 8
    args = (*args, "--predictions", tmp_path / "good.json", "--limit", 3)
    assert "--compare: 3 examples in common, of 3 here and 8 there" in blip(*args, "--compare", tmp_path / "bad").err
    other = lists(tmp_path / "data")["caption"]
    result = blip("eval", "caption", "--data", other, "--compare", tmp_path / "bad", *QUIET)
    assert result.code == 2 and "bad evaluates vqa, not caption" in result.err


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
        (("vqa", "--data", data, "--fail-under", "accuracy=nan"), 2, "must be a finite number"),
        (("vqa", "--data", "none", "--fail-under", "acuracy=1"), 2, "--fail-under acuracy; must be of accuracy"),
        (("caption", "--data", "none", "--metrics", "bleu5"), 2, "--metrics bleu5; must be of bleu1"),
        (("retrieval", "--data", "none", "--metrics", "txt_r"), 2, "--metrics txt_r; must be of txt_r1"),
        (
            ("caption", "--data", "none", "--metrics", "bleu", "--fail-under", "cider=1"),
            2,
            "--fail-under cider; must be among --metrics bleu",
        ),
        (("vqa", "--data", data, "-o", tmp_path / "out.json"), 2, "out.json; must be a folder"),
        (("vqa", "--data", data, "-o", data), 2, "vqa.json; must be a folder"),
        (("vqa", "--data", data, "--submission", tmp_path / "a.csv"), 2, "unknown ending '.csv'; must be .json"),
        (("vqa", "--data", data, "--submission", data), 2, "vqa.json exists; choose another name"),
        (("retrieval", "--data", data, "--submission", tmp_path / "a.json"), 2, "no format for retrieval"),
        (("vqa", "--data", data, "--allow-missing"), 2, "--allow-missing; must be used with --predictions"),
        (("vqa", "--data", data, "--compare", tmp_path / "none"), 2, "must be a folder written by 'blip eval -o'"),
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


def test_progress_counts_to_the_limit(blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.cli.output.PLAIN_SECONDS", 0)
    data = lists(tmp_path / "data")["caption"]
    args = ("--device", "cpu", "--bootstrap", "0", "--meteor-spice", "never", "--batch-size", "2")
    result = blip("eval", "caption", "--data", data, "-m", "random-tiny", "--limit", 4, *args)
    assert "4/4 (" in result.err and "/8 " not in result.err


@pytest.mark.parametrize("task", ["caption", "retrieval", "vqa", "nlvr", "judgements"])
def test_data_without_a_readable_image_is_an_error(blip: Blip, tmp_path: Path, task: str) -> None:
    data = lists(tmp_path)[task]
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"nothing")
    result = blip("eval", task, "--data", data, "-m", MODELS[task], "--skip-bad", *QUIET)
    assert result.code == 2 and not result.out
    assert "nothing to evaluate" in result.err or "nothing to rank" in result.err


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("retrieval", ["--beams", "5"], "--beams; must be used with caption or nocaps or vqa, not with retrieval"),
        ("caption", ["--k", "16"], "--k; must be used with retrieval or video-retrieval or vqa, not with caption"),
        ("vqa", ["--order", "both"], "--order; must be used with nlvr, not with vqa"),
        (
            "caption",
            ["--predictions", "x.json", "--beams", "5"],
            "--beams with --predictions; must be used with a model",
        ),
    ],
)
def test_flags_that_change_nothing_are_refused(blip: Blip, task: str, flags: list[str], message: str) -> None:
    result = blip("eval", task, "--data", "data.json", *flags)
    assert result.code == 2 and message in result.err
