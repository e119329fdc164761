from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from blip.data import task_rows
from blip.data.loader import SampleRef
from blip.data.sources import SampleList, open_source
from blip.eval.caption import image_ids
from blip.eval.predictions import match
from blip.io.samples import ImageRef, Sample
from blip.tasks.images import ImageLoader, TrainingImages
from blip_lite.errors import BadRecord
from tests.oracle_files import values

ORACLE = values("datasets")
NUMBERS = {"a0.png": 5, "a1.png": 15, "b0.png": 25, "b1.png": 35}


def listed(folder: Path, rows: list[dict[str, Any]]) -> SampleList:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return open_source(path)


def test_ids_of_rows_do_not_contain_folders(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question_id": 7}, {"image": "a.png"}, {"image": "a.png", "question_id": None}]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert task_rows.row_ids(listed(tmp_path / name, rows), "question_id") == [7, "rows.json:2", "rows.json:3"]
    both = SampleList([listed(tmp_path / name, rows)[1] for name in ("one", "two")])
    assert task_rows.row_ids(both, "question_id") == [f"{tmp_path}/{name}/rows.json:2" for name in ("one", "two")]
    of_shard = Sample(key="s.tar/a/000", images=(ImageRef(tmp_path),), where="/data/s.tar/a/000")
    assert task_rows.row_ids(SampleList([of_shard]), "question_id") == ["s.tar/a/000"]


def number(image: ImageRef) -> int:
    assert image.path is not None
    return NUMBERS[image.path.name]


def test_vqa_answers_and_weights_equal_the_original(tmp_path: Path) -> None:
    source = listed(tmp_path, ORACLE["vqa.annotation"])
    questions = [task_rows.question(source[i]) for i in range(len(source))]
    items = [[number(q.image), q.question, list(q.answers), list(q.weights)] for q in questions]
    for item, expected in zip(items, ORACLE["vqa.items"], strict=True):
        assert item[:3] == expected[:3]
        assert item[3] == pytest.approx(expected[3])
    answers, weights, counts = task_rows.flat_answers(questions)
    assert [answers, counts] == [ORACLE["vqa.collated"][2], ORACLE["vqa.collated"][4]]
    np.testing.assert_allclose(weights.numpy(), ORACLE["vqa.collated"][3], rtol=1e-7)


def test_vqa_test_rows_have_an_id_and_no_answer(tmp_path: Path) -> None:
    rows, expected = ORACLE["vqa.test"]
    question = task_rows.question(listed(tmp_path, rows)[0])
    assert [number(question.image), question.question, question.question_id] == expected
    assert question.answers == ()


@pytest.mark.parametrize("seed", range(8))
def test_nlvr_pairs_are_swapped_as_in_the_original(tmp_path: Path, seed: int) -> None:
    source = listed(tmp_path, ORACLE["nlvr.annotation"])
    for _, index, expected in [item for item in ORACLE["nlvr.items"] if item[0] == seed]:
        pair = task_rows.image_pair(source[index], draw=random.Random(seed).random())
        assert [*map(number, pair.images), pair.sentence, pair.label] == expected


def test_nlvr_pairs_without_a_draw_keep_their_order(tmp_path: Path) -> None:
    pair = task_rows.image_pair(listed(tmp_path, ORACLE["nlvr.annotation"])[0])
    assert [*map(number, pair.images), pair.sentence] == [5, 15, "the left image has a dog"]
    assert pair.swapped().swapped() == pair


def training_items(source: SampleList, prompt: str) -> list[list[Any]]:
    """Return each row as the task's data set does, with the prompt that collation adds."""

    def seen(sample: Sample, image: ImageRef, seed: int) -> Any:
        return number(image)

    data = TrainingImages(source, cast(ImageLoader, seen), 1, 30)
    items = [data[SampleRef(i, 0, i)] for i in range(len(source))]
    return [[item.pixel_values, prompt + item.texts[0]] for item in items]


@pytest.mark.parametrize(("name", "prompt"), [("coco.train", "a picture of "), ("coco.train_no_prompt", "")])
def test_captions_and_image_ids_equal_the_original(tmp_path: Path, name: str, prompt: str) -> None:
    source = listed(tmp_path, ORACLE["coco.train"][0])
    ids = task_rows.image_ids(source)
    items = [[*item, ids[i]] for i, item in enumerate(training_items(source, prompt))]
    assert items == ORACLE[name][-1 if name == "coco.train" else slice(None)]


def test_image_ids_without_a_column_go_by_the_image(tmp_path: Path) -> None:
    rows = [{"image": image, "caption": "x"} for image in ("b.png", "a.png", "b.png")]
    assert task_rows.image_ids(listed(tmp_path, rows)) == [0, 1, 0]


def test_coco_ids_are_read_from_file_names(tmp_path: Path) -> None:
    names, ids = ORACLE["coco.caption_eval_ids"]
    assert image_ids(listed(tmp_path, [{"image": name} for name in names])) == ids
    assert image_ids(listed(tmp_path, [{"image": "photos/dog.jpg"}])) == ["photos/dog.jpg"]


def test_retrieval_texts_equal_the_original(tmp_path: Path) -> None:
    expected = ORACLE["coco.retrieval_eval"]
    result = task_rows.retrieval_texts(listed(tmp_path, expected["annotation"]))
    assert list(result.texts) == expected["text"]
    assert {str(i): owner for i, owner in enumerate(result.text_to_image)} == expected["txt2img"]
    assert {str(i): list(texts) for i, texts in enumerate(result.image_to_texts)} == expected["img2txt"]


def test_nocaps_ids_are_numbers(tmp_path: Path) -> None:
    rows, items = ORACLE["nocaps"]
    source = listed(tmp_path, rows)
    ids = image_ids(source)
    assert [[number(source[i].image), ids[i]] for i in range(len(source))] == items


def test_pretraining_captions_equal_the_original(tmp_path: Path) -> None:
    rows = [{"image": i, "caption": c} for i, c in (("a0.png", "First. one"), ("a1.png", "w " * 35))]
    rows += [{"image": "b0.png", "caption": "web (text)"}] * 3
    source = listed(tmp_path, rows)
    items = training_items(source, "")
    assert [len(items), items] == ORACLE["pretrain"]["with_web_file"]


def test_the_first_row_of_an_id_is_kept() -> None:
    expected = ORACLE["save_result"]
    ids = [str(row["image_id"]) for row in expected["written"]]
    matched = match(ids, expected["given"], lambda row: str(row["image_id"]), allow_missing=True)
    assert list(matched.rows.values()) == expected["written"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "maybe"}, "label 'maybe'; must be True or False"),
        ({"sentence": " "}, "no text in column 'sentence'"),
        ({"images": ["a0.png"]}, "1 images; a pair needs two"),
    ],
)
def test_bad_nlvr_rows_report_file_and_row(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    sample = listed(tmp_path, [{**ORACLE["nlvr.annotation"][0], **change}])[0]
    with pytest.raises(BadRecord, match=rf"rows\.json:1: {reason}"):
        task_rows.image_pair(sample)


@pytest.mark.parametrize("change", [{"answer": []}, {"answer": 3}, {"question": None}])
def test_bad_vqa_rows_report_file_and_row(tmp_path: Path, change: dict[str, Any]) -> None:
    sample = listed(tmp_path, [{**ORACLE["vqa.annotation"][0], **change}])[0]
    with pytest.raises(BadRecord, match=r"rows\.json:1: "):
        task_rows.question(sample)
