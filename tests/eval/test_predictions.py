"""Predictions of other programs: files of the official tools, accepted fields, ids that do not match the data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from blip.data.sources import SampleList, open_source
from blip.eval.caption import CaptionEval
from blip.eval.nlvr import NlvrEval
from blip.eval.prediction_files import read_predictions, write_submission
from blip.eval.predictions import CAPTION, NLVR, RANKING, RATINGS, VQA, Form
from blip.eval.run import score_predictions
from blip.eval.vqa import VqaEval
from blip_lite.errors import BadRecord, UsageError
from tests.eval.photos import caption_rows, write_list

CAPTIONS = [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}]
NAMED = [{"image_id": "1", "caption": "a"}, {"image_id": "2", "caption": "b"}]


@pytest.mark.parametrize(
    ("name", "form", "content", "expected"),
    [
        ("coco.json", CAPTION, json.dumps(CAPTIONS), CAPTIONS),
        ("nocaps.json", CAPTION, '[{"image_id": 1, "id": 7, "caption": "a"}]', [{**CAPTIONS[0], "id": 7}]),
        ("pandas.json", CAPTION, '[{"image_id": 1.0, "caption": "a"}]', CAPTIONS[:1]),
        ("bom.json", CAPTION, "\ufeff" + json.dumps(CAPTIONS), CAPTIONS),
        ("wrapped.json", CAPTION, json.dumps({"info": {}, "annotations": CAPTIONS}), CAPTIONS),
        ("lines.jsonl", CAPTION, "\n\n".join(map(json.dumps, CAPTIONS)), CAPTIONS),
        ("one.jsonl", CAPTION, json.dumps(CAPTIONS[0]), CAPTIONS[:1]),
        ("scorer.json", CAPTION, '{"1": ["a"], "2": [{"caption": "b"}]}', NAMED),
        ("table.csv", CAPTION, 'image_id,caption\n1,"a, b"\n', [{"image_id": "1", "caption": "a, b"}]),
        ("vqa.json", VQA, '[{"question_id": 3, "answer": "yes"}]', [{"question_id": 3, "answer": "yes"}]),
        ("count.json", VQA, '[{"question_id": 3, "answer": 2}]', [{"question_id": 3, "answer": "2"}]),
        ("plain.csv", NLVR, "dev-1,true\ndev-2,False\n", [("dev-1", True), ("dev-2", False)]),
        ("png.csv", NLVR, "dev-1-0-0.png,true\n", [("dev-1-0-0", True)]),
        ("head.csv", NLVR, "identifier,prediction\ndev-1,TRUE\n", [("dev-1", True)]),
        ("label.jsonl", NLVR, '{"identifier": "dev-1", "label": "False"}', [("dev-1", False)]),
    ],
)  # fmt: skip
def test_files_of_the_official_tools_are_read(
    tmp_path: Path, name: str, form: Form, content: str, expected: Any
) -> None:
    (tmp_path / name).write_text(content)
    rows = read_predictions(tmp_path / name, form)
    if form is NLVR:
        assert [(row["identifier"], row["prediction"]) for row in rows] == expected
    else:
        assert rows == expected


def test_records_of_the_command_line_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    lines = [
        {"schema": "caption/1", "key": "val/COCO_val2014_000000000007.jpg", "text": "a cat"},
        {"schema": "caption/1", "key": "b.jpg", "error": {"type": "UnreadableImage", "reason": "x"}},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    (row,) = read_predictions(path, CAPTION)
    assert (row["image_id"], row["caption"]) == ("val/COCO_val2014_000000000007.jpg", "a cat")
    path.write_text(json.dumps({"schema": "answer/1", "key": "a.jpg", "text": "yes", "question_id": 3}))
    (row,) = read_predictions(path, VQA)
    assert (row["question_id"], row["answer"]) == (3, "yes")


@pytest.mark.parametrize(
    ("form", "row", "problem"),
    [
        (CAPTION, {"img": 1, "caption": "a"}, "has the fields 'img', 'caption'; a prediction needs 'image_id' (or"),
        (CAPTION, {"image_id": 1, "sentence": "a"}, "'image_id' (or 'img_id', 'id', 'image', 'key', 'file_name')"),
        (CAPTION, {"image_id": 1, "caption": ["a", "b"]}, "field 'caption' is ['a', 'b']; must be a text"),
        (CAPTION, {"image_id": 1, "caption": float("nan")}, "field 'caption' is nan; must be a text"),
        (CAPTION, {"image_id": 1.5, "caption": "a"}, "field 'image_id' is 1.5; must be a text or an integer"),
        (CAPTION, {"image_id": [1], "caption": "a"}, "field 'image_id' is [1]; must be a text or an integer"),
        (CAPTION, "a cat", "must be an object with 'image_id'"),
        (VQA, {"question_id": 1, "answers": ["yes"]}, "needs 'question_id' (or 'id', 'key') and 'answer' (or"),
        (VQA, {"question_id": 1, "answer": None}, "has the fields 'question_id', 'answer'"),
        (NLVR, {"identifier": "a", "prediction": "yes"}, "field 'prediction' is 'yes'; must be true or false"),
        (NLVR, {"identifier": "a", "prediction": 1}, "field 'prediction' is 1; must be true or false"),
        (RATINGS, {"key": "a", "text": "b"}, "'key' (or 'image'), 'text' (or 'caption') and 'itm' (or 'itc')"),
        (RATINGS, {"key": "a", "text": "b", "itm": float("nan")}, "field 'itm' is nan; must be a finite number"),
        (RATINGS, {"key": "a", "text": "b", "itm": "high"}, "field 'itm' is 'high'; must be a number"),
        (RANKING, {"direction": "x", "query": "1", "rank": 0}, "field 'rank' is 0; must be an integer of at least 1"),
        (RANKING, {"direction": "x", "query": "1", "top": ["a"]}, "must be a list of pairs of name and score"),
        (RANKING, {"direction": "x", "query": "1"}, "'query' and 'top' (or 'rank')"),
    ],
)  # fmt: skip
def test_other_fields_and_values_are_refused_with_the_accepted_ones(form: Form, row: Any, problem: str) -> None:
    with pytest.raises(BadRecord) as caught:
        form.parse([row])
    assert str(caught.value).startswith("predictions:1: ") and problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", "nothing", "not a JSON list, JSON lines or a table"),
        ("a.json", "", "holds no predictions; a prediction has 'image_id'"),
        ("a.json", "[]", "holds no predictions"),
        ("a.json", "3", "must be a list of objects"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.jsonl", '{"image_id": 1, "caption": "a"}\n{"image_id": 2', "a.jsonl:2: not valid JSON"),
        ("a.json", '{"1": ["a"], "1": ["b"]}', "'1' occurs twice in an object"),
        (
            "a.jsonl",
            '{"image_id": 1, "caption": "a"}\n{"image_id": 2, "image_id": 3}',
            "a.jsonl:2: not valid JSON ('image",
        ),
        ("a.jsonl", '{"schema": "caption/1", "key": "a", "error": {}}', "holds no predictions"),
        ("a.csv", "picture,words\n1,a\n", "a.csv:2: has the fields 'picture', 'words'"),
        ("a.parquet", "x", "not a readable Parquet file"),
        ("none.json", None, "No such file"),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, name: str, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((UsageError, BadRecord), match=r"a\.|none\.json") as caught:
        read_predictions(tmp_path / name, CAPTION)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_compressed_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[]"))
    with pytest.raises(UsageError, match=r"a.json.gz: compressed by gzip; unpack it first"):
        read_predictions(tmp_path / "a.json.gz", CAPTION)


def test_submissions_are_read_back(tmp_path: Path) -> None:
    write_submission(tmp_path / "vqa.json", "vqa", [{"question_id": 1, "answer": "yes", "more": 2}])
    assert json.loads((tmp_path / "vqa.json").read_text()) == [{"question_id": 1, "answer": "yes"}]
    assert read_predictions(tmp_path / "vqa.json", VQA) == [{"question_id": 1, "answer": "yes"}]
    write_submission(tmp_path / "nlvr.csv", "nlvr", [{"identifier": "dev-1", "prediction": True, "score": 1}])
    assert (tmp_path / "nlvr.csv").read_text() == "dev-1,True\n"
    assert read_predictions(tmp_path / "nlvr.csv", NLVR) == [{"identifier": "dev-1", "prediction": True}]
    for path, task, problem in (("x.json", "retrieval", "no format for retrieval"), ("x.csv", "vqa", "must be .json")):
        with pytest.raises(UsageError, match=problem):
            write_submission(tmp_path / path, task, [])


@pytest.fixture
def source(tmp_path: Path) -> SampleList:
    return open_source(write_list(tmp_path, "test.json", caption_rows()))


def captions(*numbers: int) -> list[dict[str, Any]]:
    return [{"image_id": i, "caption": "a red wall"} for i in numbers]


@pytest.mark.parametrize(
    ("numbers", "problem", "counts"),
    [
        (range(4), "4 of 8 ids in the data have no prediction ('4', ...)", {"missing": 4}),
        (range(7), "1 of 8 ids in the data has no prediction ('7')", {"missing": 1}),
        (range(9), "1 id in the predictions is not in the data ('8')", {"surplus": 1}),
        ((*range(8), 2, 3), "2 ids in the predictions occur more than once ('2', ...)", {"repeated": 2}),
        ((*range(7), 9), "has no prediction ('7'); 1 id in the predictions is not", {"missing": 1, "surplus": 1}),
    ],
)
def test_differences_of_the_ids_are_an_error_unless_allowed(
    source: SampleList, numbers: range, problem: str, counts: dict[str, int]
) -> None:
    with pytest.raises(UsageError) as caught:
        score_predictions(CaptionEval(), source, captions(*numbers))
    assert problem in str(caught.value) and str(caught.value).endswith("; --allow-missing scores the others")
    report = score_predictions(CaptionEval(), source, captions(*numbers), allow_missing=True)
    assert report.coverage.counts() == counts and len(report.rows) == 8 - counts.get("missing", 0)


def test_a_limit_needs_the_predictions_of_its_rows(source: SampleList) -> None:
    assert len(score_predictions(CaptionEval(), source, captions(*range(8)), limit=2).rows) == 2
    assert len(score_predictions(CaptionEval(), source, captions(0, 1), limit=2).rows) == 2
    with pytest.raises(UsageError, match="1 of 2 ids in the data has no prediction"):
        score_predictions(CaptionEval(), source, captions(0, 5), limit=2)
    with pytest.raises(UsageError, match="1 id in the predictions is not in the data"):
        score_predictions(CaptionEval(), source, captions(0, 1, 99), limit=2)


def test_ids_that_never_match_are_shown(source: SampleList) -> None:
    with pytest.raises(UsageError, match="the data have '0', the predictions '77'"):
        score_predictions(CaptionEval(), source, captions(77), allow_missing=True)


def test_numbers_and_texts_are_equal_ids(tmp_path: Path) -> None:
    rows = [{"image": "red.png", "question_id": 7, "question": "Which?", "answer": ["red"] * 10}]
    questions = open_source(write_list(tmp_path, "vqa.json", rows))
    assert VqaEval().score(questions, [{"question_id": "7", "answer": "red"}]).metrics["accuracy"] == 1
    rows = [{"image": "x/COCO_val2014_000000000007.jpg", "caption": "a"}]
    photos = open_source(write_list(tmp_path, "coco.json", rows))
    for name in (7, "7", "000000000007", "COCO_val2014_000000000007.jpg", "x/COCO_val2014_000000000007.jpg"):
        assert len(CaptionEval().score(photos, [{"image_id": name, "caption": "a"}]).rows) == 1


def test_half_of_nlvr_is_an_error(tmp_path: Path) -> None:
    rows = [
        {"images": ["red.png", "blue.png"], "sentence": "x", "label": "True", "identifier": f"dev-{i}-0-0"}
        for i in range(2)
    ]
    pairs = open_source(write_list(tmp_path, "nlvr.json", rows))
    with pytest.raises(UsageError, match="1 of 2 ids in the data has no prediction"):
        NlvrEval().score(pairs, [{"identifier": "dev-0-0-0", "prediction": "true"}])
