"""The folder of an evaluation: records that fit their schemas, a page that is whole by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from blip.data.sources import open_source
from blip.eval.caption import CaptionEval
from blip.eval.results import About, read_examples, summary, write
from blip.eval.run import read_predictions, write_submission
from blip_lite.errors import UsageError
from tests.eval.photos import caption_rows, write_list
from tests.record_schemas import problem

ABOUT = About(task="caption", data="test.json", model="mine", n=8, split="test", settings={"beams": 3})


def test_all_files_are_written_and_valid(tmp_path: Path) -> None:
    source = open_source(write_list(tmp_path, "test.json", caption_rows()))
    predictions = [{"image_id": i, "caption": f"a <b>{i}</b> wall"} for i in range(8)]
    report = replace(CaptionEval().score(source, predictions), failed=("a.json:3: image x.png: no such file",))
    metrics = summary(ABOUT, report, draws=50, seed=0)
    write(tmp_path / "out", report, metrics)
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert problem(stored) is None and stored["failed"] == 1 and stored["metrics"]["cider"]["n"] == 8
    assert (
        stored["metrics"]["cider"]["low"] <= stored["metrics"]["cider"]["value"] <= stored["metrics"]["cider"]["high"]
    )
    rows = read_examples(tmp_path / "out")
    assert len(rows) == 9 and all(problem(row) is None for row in rows)
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == predictions
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 8 and "&lt;b&gt;3" in page and "http" not in page
    assert "1 rows could not be read" in page


def test_settings_are_named_by_a_hash() -> None:
    assert ABOUT.config_sha256 == replace(ABOUT, seconds=5).config_sha256
    assert ABOUT.config_sha256 != replace(ABOUT, settings={"beams": 1}).config_sha256


def test_predictions_come_from_lists_lines_and_our_own_records(tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text('[{"image_id": 1, "caption": "a"}]')
    assert read_predictions(path) == [{"image_id": 1, "caption": "a"}]
    lines = [
        {"schema": "caption/1", "key": "val/COCO_val2014_000000000007.jpg", "text": "a cat"},
        {"schema": "caption/1", "key": "b.jpg", "error": {"type": "UnreadableImage", "reason": "x"}},
        {"schema": "answer/1", "key": "a.jpg", "question": "q", "text": "yes", "question_id": 3},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_predictions(path) == [{"image_id": 7, "caption": "a cat"}, {"question_id": 3, "answer": "yes"}]
    path.write_text("nothing")
    with pytest.raises(UsageError, match="not a JSON list or JSON lines"):
        read_predictions(path)


def test_submissions_have_the_format_of_the_server(tmp_path: Path) -> None:
    write_submission(tmp_path / "vqa.json", "vqa", [{"question_id": 1, "answer": "yes", "more": 2}])
    assert json.loads((tmp_path / "vqa.json").read_text()) == [{"question_id": 1, "answer": "yes"}]
    write_submission(tmp_path / "nlvr.csv", "nlvr", [{"identifier": "dev-1", "prediction": True, "score": 1}])
    assert (tmp_path / "nlvr.csv").read_text() == "dev-1,True\n"
    with pytest.raises(UsageError, match="no format for retrieval"):
        write_submission(tmp_path / "x", "retrieval", [])
