"""The measures of `experiments/tiny`: calibration, pairs of true and changed captions, named objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blip.data.sources import SampleList, open_source
from blip.io.samples import ImageRef, Sample
from experiments.tiny.calibration import auc, expected_calibration_error, pair_accuracy, reliability
from experiments.tiny.measure import COCO_DEV, Measurement
from experiments.tiny.measure_matching import (
    KINDS,
    Caption,
    Scored,
    build_captions,
    calibration,
    changed_accuracy,
    score_captions,
)
from experiments.tiny.measure_objects import named_objects
from tests.eval.photos import caption_rows, model, write_list


def test_calibrated_probabilities_have_no_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    labels = (rng.random(50_000) < p).tolist()
    assert expected_calibration_error(p.tolist(), labels) < 0.01
    assert expected_calibration_error([0.9] * 10, [False] * 10) == pytest.approx(0.9)
    (only,) = reliability([0.31, 0.39], [True, False])
    assert only == {"from": 0.3, "to": 0.4, "count": 2, "probability": pytest.approx(0.35), "true": 0.5}
    assert reliability([1.0], [True])[0]["to"] == 1


def test_ties_count_half() -> None:
    assert pair_accuracy([1, 0.5, 0], [0, 0.5, 1]) == 0.5
    assert auc([0.9, 0.5], [0.5, 0.1]) == pytest.approx((1 + 1 + 1 + 0.5) / 4)


def test_captions_to_match_are_the_same_every_time() -> None:
    texts = [["two dogs run on the grass", "a dog"], ["a red car behind a tree"], []]
    captions = build_captions(texts)
    assert captions == build_captions(texts) and captions != build_captions(texts, seed=1)
    first = captions[0]
    assert [c.text for c in first if c.kind == "true"] == texts[0]
    assert all(c.text == texts[1][0] for c in first if c.kind == "other")  # never of the photo, never of one without
    assert {c.kind for c in first if c.of == 0} >= {"true", "other", "object", "number"}
    assert all(c.text not in texts[0] for c in first if c.kind in KINDS)


def scored() -> Scored:
    rows = [("true", 0.9, 0.1), ("other", 0.2, 0.0), ("object", 0.95, 0.05), ("order", 0.3, 0.4)]
    return Scored(
        [0] * 4, [Caption(kind, kind, 0) for kind, *_ in rows], [itm for _, itm, _ in rows], [c for *_, c in rows]
    )


def test_accuracy_is_reported_by_kind() -> None:
    results = changed_accuracy(scored())
    assert results["object"] == {"pairs": 1, "itm": 0, "itc": 1} and results["order"] == {
        "pairs": 1,
        "itm": 1,
        "itc": 0,
    }
    assert results["all"] == {"pairs": 2, "itm": 0.5, "itc": 0.5} and "number" not in results


def test_calibration_is_reported_at_one_to_one() -> None:
    results = calibration(scored())
    assert results["true_against_other"]["ece"] == pytest.approx((0.1 + 0.2) / 2)
    assert results["true_against_changed"]["pairs"] == 1 and results["true_against_other"]["auc"] == 1


def test_a_model_is_measured_on_photos(tmp_path: Path) -> None:
    source = open_source(write_list(tmp_path, "test.json", caption_rows()))
    result = score_captions(model("pretrain"), source, limit=3)
    assert set(result.photos) == {0, 1, 2} and len(result.itm) == len(result.captions) == len(result.itc)
    assert {"attribute", "true", "other"} <= {caption.kind for caption in result.captions}


def test_objects_are_named_by_class_and_by_synonyms() -> None:
    boxes = [[[0, 0, 1, 1, "cat"], [0, 0, 1, 1, "bed"]], [[0, 0, 1, 1, "airplane"]], []]
    images = (ImageRef(Path("x.jpg")),)
    photos = SampleList([Sample(key=str(i), images=images, fields={"boxes": b}) for i, b in enumerate(boxes)])
    result = named_objects(photos, ["a cat sleeps", "a dog", "a jet"])
    assert result["boxed_photos"] == 2 and result["names_a_boxed_object"] == 0.5
    assert result["class_recall"]["cat"] == {"recall": 1, "photos": 1} and result["class_recall"]["bed"]["recall"] == 0
    assert named_objects(photos, ["", "a jet", ""])["class_recall"]["airplane"]["recall"] == 1


def test_examples_are_captioned_and_photos_without_captions_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = Measurement(model("pretrain"), tmp_path, 2, 4, False)
    assert len(measurement.examples()) == 5
    rows = [{"image": "red.png"}, *caption_rows()[1:]]
    samples = open_source(write_list(tmp_path, "test.json", rows))
    monkeypatch.setattr("experiments.tiny.measure.open_source", lambda path: samples)
    assert [sample.texts[0] for sample in measurement.source(COCO_DEV)] == [row["caption"][0] for row in rows[1:3]]
