"""Caption evaluation: ids, references, repeated rows, skipped metrics and reasons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blip.data.sources import SampleList, open_source
from blip.eval import meteor_spice
from blip.eval.caption import CaptionEval, image_ids
from blip.eval.photos import Photos
from blip.eval.run import run
from blip.metrics.caption import score_captions
from blip_lite.errors import BadRecord
from tests.eval.photos import caption_rows, model, write_list


def test_a_model_s_captions_are_scored_against_all_references(tmp_path: Path) -> None:
    source, loaded = open_source(write_list(tmp_path, "test.json", caption_rows())), model("caption")
    report = run(CaptionEval(), loaded.model, loaded.tokenizer, source)
    captions = [row["caption"] for row in report.predictions]
    assert report.metrics == pytest.approx(score_captions([row["caption"] for row in caption_rows()], captions))
    assert [row["key"] for row in report.rows] == [str(i) for i in range(8)]
    assert set(report.rows[0]["scores"]) == {"cider", "bleu4", "rouge_l"}


def test_rows_of_one_photo_are_its_references(tmp_path: Path) -> None:
    rows = [{"image": "red.png", "caption": "a red wall"}, {"image": "red.png", "caption": "red"}]
    source = open_source(write_list(tmp_path, "test.json", rows))
    report = CaptionEval().score(source, [{"image_id": "red.png", "caption": "red"}])
    assert report.rows[0]["references"] == ["a red wall", "red"] and report.metrics["bleu1"] == pytest.approx(1)


def test_the_first_of_two_predictions_of_a_photo_counts(tmp_path: Path) -> None:
    source = open_source(write_list(tmp_path, "test.json", caption_rows()))
    twice = [{"image_id": 0, "caption": "a red wall"}, {"image_id": "0", "caption": "x"}]
    report = CaptionEval().score(source, twice, allow_missing=True)
    assert [row["prediction"] for row in report.rows] == ["a red wall"] and report.coverage.repeated == ("0",)


def test_photos_are_named_by_number_if_it_is_unique(tmp_path: Path) -> None:
    folder = tmp_path / "val2014"
    rows = [{"image": f"{name}.png"} for name in ("COCO_val2014_000000000007", "COCO_val2014_000000000012")]
    assert image_ids(open_source(write_list(folder, "a.json", rows))) == [7, 12]
    rows = [{"image": "a/img_1.png"}, {"image": "b/img_1.png"}]
    assert image_ids(open_source(write_list(folder, "b.json", rows))) == ["a/img_1.png", "b/img_1.png"]


def test_without_references_there_are_predictions_alone(tmp_path: Path) -> None:
    rows = [{"image": "red.png", "img_id": "4"}]
    source, loaded = open_source(write_list(tmp_path, "nocaps.json", rows)), model("caption")
    report = run(CaptionEval(name="nocaps"), loaded.model, loaded.tokenizer, source)
    assert report.predictions[0]["image_id"] == 4 and not report.measures
    assert report.skipped == {"all metrics": "the data have no reference captions"}


def test_photos_without_references_among_others_are_counted(tmp_path: Path) -> None:
    rows = [*caption_rows()[:2], {"image": "other.png", "image_id": 9}]
    source = open_source(write_list(tmp_path, "a.json", rows))
    predictions = [{"image_id": i, "caption": "a red wall"} for i in (0, 1, 9)]
    report = CaptionEval().score(source, predictions)
    assert report.skipped == {"images without references": "1 of 3, not scored"}
    assert report.measures["cider"].stats is not None and len(report.measures["cider"].stats) == 2
    assert [bool(row["scores"]) for row in report.rows] == [True, True, False]


def test_shards_may_repeat_keys(tmp_path: Path) -> None:
    rows = [{"image": "red.png", "caption": "a"}, {"image": "blue.png", "caption": "b"}]
    samples = open_source(write_list(tmp_path, "a.json", rows)).samples
    same = SampleList([replace(sample, key="000") for sample in samples])
    assert image_ids(same) == [sample.place for sample in samples]


def test_a_broken_photo_stops_or_is_passed_over(tmp_path: Path) -> None:
    source = open_source(write_list(tmp_path, "test.json", caption_rows()))
    (tmp_path / "blue.png").write_bytes(b"nothing")
    loaded = model("caption")
    with pytest.raises(BadRecord, match=r"test\.json:3: image .*blue\.png"):
        run(CaptionEval(), loaded.model, loaded.tokenizer, source)
    report = run(CaptionEval(), loaded.model, loaded.tokenizer, source, photos=Photos(skip_bad=True))
    assert len(report.rows) == 7 and len(report.failed) == 1 and "blue.png" in report.failed[0]


def test_java_metrics_are_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    scores, skipped = meteor_spice.scores([["a red wall"]], ["a wall"])
    assert not scores and skipped["meteor"].startswith("java not found") and set(skipped) == {"meteor", "spice"}


def test_spice_does_not_download_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(scorer: object, *texts: object) -> float:
        if getattr(scorer, "__name__", "") == "Spice":
            raise AssertionError("SPICE was run")
        return 0.5

    class Scorers:
        Meteor, Spice = type("Meteor", (), {}), type("Spice", (), {})

    monkeypatch.setattr(meteor_spice, "missing", lambda: "")
    monkeypatch.setattr(meteor_spice, "_has_parser", lambda: False)
    monkeypatch.setattr(meteor_spice, "_run", run)
    monkeypatch.setattr(meteor_spice, "import_module", lambda name: Scorers)
    monkeypatch.setenv("BLIP_OFFLINE", "1")
    scores, skipped = meteor_spice.scores([["a red wall"]], ["a wall"])
    assert scores == {"meteor": 0.5} and skipped["spice"].endswith("run once without --offline")
