"""NLVR2 evaluation: the same every time, orders, consistency."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip.data.sources import open_source
from blip.eval.nlvr import NlvrEval
from blip.eval.photos import Photos
from blip.eval.run import run
from tests.eval.photos import model, write_list
from tests.train.photos import COLOURS

ROWS = [
    {
        "images": [f"{name}.png", "red.png"],
        "sentence": "The left image is blue.",
        "label": name == "blue",
        "identifier": f"dev-1-{i}-{i % 2}",
    }
    for i, name in enumerate(COLOURS)
]


def test_accuracy_chance_and_consistency(tmp_path: Path) -> None:
    source = open_source(write_list(tmp_path, "nlvr.json", ROWS))
    predictions = [{"identifier": row["identifier"], "prediction": i == 0} for i, row in enumerate(ROWS)]
    report = NlvrEval().score(source, predictions)
    assert report.metrics["accuracy"] == 6 / 8 and report.measures["accuracy"].chance == 7 / 8
    assert report.metrics["consistency"] == 0.5  # the two wrong rows have one sentence
    assert report.rows[2]["prediction"] is False and report.rows[2]["references"] == [True]


def test_evaluation_is_deterministic_and_orders_agree_on_average(tmp_path: Path) -> None:
    source, loaded = open_source(write_list(tmp_path, "nlvr.json", ROWS)), model("nlvr")

    def chances(order: str) -> list[float]:
        report = run(NlvrEval(order=order), loaded.model, loaded.tokenizer, source)  # type: ignore[arg-type]
        return [row["score"] for row in report.predictions]

    given, both = chances("given"), chances("both")
    assert given == chances("given")
    swapped = [2 * b - g for b, g in zip(both, given, strict=True)]
    mixed = chances("random")
    assert mixed == chances("random") and mixed != given
    assert all(min(abs(m - g), abs(m - s)) < 1e-5 for m, g, s in zip(mixed, given, swapped, strict=True))


def test_a_pair_with_a_broken_photo_is_passed_over(tmp_path: Path) -> None:
    source, loaded = open_source(write_list(tmp_path, "nlvr.json", ROWS)), model("nlvr")
    (tmp_path / "blue.png").unlink()
    report = run(NlvrEval(), loaded.model, loaded.tokenizer, source, photos=Photos(batch_size=3, skip_bad=True))
    assert len(report.rows) == 7 and "blue.png" in report.failed[0]
    assert report.metrics["accuracy"] == pytest.approx(sum(r["scores"]["accuracy"] for r in report.rows) / 7)
