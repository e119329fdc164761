"""The folder of an evaluation: records that fit their schemas, a page that is whole by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from blip.data.sources import open_source
from blip.eval.caption import CaptionEval
from blip.eval.results import About, read_examples, summary, write
from blip.eval.retrieval import RetrievalEval
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
    assert "rows could not be read: 1" in page


def test_settings_are_named_by_a_hash() -> None:
    assert ABOUT.config_sha256 == replace(ABOUT, seconds=5).config_sha256
    assert ABOUT.config_sha256 != replace(ABOUT, settings={"beams": 1}).config_sha256


def test_markup_in_texts_and_names_is_shown_not_run(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    rows = [{"image": f"{name}.png", "caption": [f"{attack} {name}"]} for name in ("red", "blue")]
    source = open_source(write_list(tmp_path, "test.json", rows))
    predictions: list[dict[str, Any]] = [
        {"direction": "image_to_text", "query": f"{name}.png", "top": [["0", 1.0], ["1", 0.5], [attack, 0.1]]}
        for name in ("red", "blue")
    ]
    predictions += [{"direction": "text_to_image", "query": str(i), "top": [[attack, 1.0]]} for i in range(2)]
    report = replace(RetrievalEval().score(source, predictions), skipped={attack: attack}, failed=(attack,))
    about = replace(ABOUT, task=attack, model=attack, data=attack, split=attack)
    write(tmp_path / "out", report, summary(about, report, draws=0, seed=0))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page and "<img src=x" not in page
    assert "✓" in page and any(line.startswith("<p class=small>1. ") for line in page.replace("<p", "\n<p").split("\n"))
    retrieved = read_examples(tmp_path / "out")[0]["retrieved"]
    assert retrieved[1].endswith("blue") and retrieved[2] == ""
