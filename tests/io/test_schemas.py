"""Every kind of record has a schema that accepts valid records and rejects others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from blip.capfilt.record import COLUMNS
from blip.io.records import to_json
from blip.io.schemas import NAMES, fields, schema
from blip_lite.errors import UsageError
from tests.record_schemas import problem

_SCORED = [{"text": "a cat", "score": -0.52}]
EXAMPLES: dict[str, dict[str, Any]] = {
    "caption": {
        "schema": "caption/1",
        "key": "photos/a.jpg",
        "text": "a dog on the beach",
        "score": -0.41,
        "alternatives": _SCORED,
        "itm": 0.98,
        "model": "caption-base",
        "params": {"beams": 3, "min_length": 5},
        "width": 640,
        "height": 480,
    },
    "answer": {
        "schema": "answer/1",
        "key": "k.jpg",
        "question": "how many?",
        "text": "4",
        "score": -0.2,
        "mode": "generate",
        "alternatives": _SCORED,
        "question_id": 17,
        "model": "vqa-base",
    },
    "explain": {
        "schema": "explain/1",
        "key": "cat.jpg",
        "model": "tiny",
        "subject": "match",
        "text": "a cat",
        "score": 0.93,
        "method": "gradcam",
        "layer": 2,
        "tokens": ["a", "cat"],
        "files": ["00_a.png", "mean.png", "map.npz"],
        "width": 480,
        "height": 320,
    },
    "match": {
        "schema": "match/1",
        "key": "cat.jpg",
        "text": "a cat",
        "text_index": 0,
        "itm": 0.9967,
        "itc": 0.41,
        "model": "retrieval-coco-base",
    },
    "embedding": {
        "schema": "embedding/1",
        "key": "a.jpg",
        "kind": "image",
        "projected": True,
        "dim": 2,
        "dtype": "float32",
        "vector": [0.0123, 1],
        "model": "retrieval-coco-base",
    },
    "capfilt": {
        "schema": "capfilt/1",
        "key": "cc-0000.tar/000123",
        "shard": "cc-0000.tar",
        "image": "000123.jpg",
        "offset": 512,
        "size": 20480,
        "url": "https://h/x",
        "sha256": "00",
        "phash": 2**64 - 1,
        "width": 640,
        "height": 480,
        "kind": "synthetic",
        "index": 0,
        "text": "a car",
        "itm": 0.97,
        "itc": 0.39,
        "logprob": -6.5,
        "tokens": 4,
    },
    "hit": {"schema": "hit/1", "rank": 1, "path": "a.jpg", "score": 0.47, "itc": 0.41, "itm": 0.93, "caption": "a"},
    "eval-example": {
        "schema": "eval-example/1",
        "task": "retrieval",
        "key": "391895",
        "direction": "image_to_text",
        "rank": 1,
        "top": [["12", "0.71"]],
        "scores": {"r1": 1, "r5": 1},
    },
    "metrics": {
        "schema": "metrics/1",
        "task": "caption",
        "data": "coco",
        "split": "test",
        "n": 5000,
        "model": "caption-base",
        "metrics": {"cider": {"value": 1.333, "low": 1.31, "high": 1.356}},
        "skipped": {"spice": "java not found"},
        "seconds": 812.4,
        "config_sha256": "00",
    },
    "train": {
        "schema": "train/1",
        "step": 100,
        "epoch": 0,
        "loss": 2.31,
        "loss_itc": 1.1,
        "loss_itm": 0.42,
        "loss_lm": 0.79,
        "lr": 1e-5,
        "grad_norm": 0.8,
        "images_per_s": 41.2,
        "seconds": 97.1,
        "mem_mb": 3120,
    },
}


def test_every_record_has_an_example() -> None:
    assert set(EXAMPLES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_examples_fit_and_are_in_order(name: str) -> None:
    example = EXAMPLES[name]
    assert problem(json.loads(to_json(example))) is None
    assert list(example) == [key for key in fields(name) if key in example]
    assert json.loads(json.dumps(schema(name)))["title"] == f"{name}/1"


@pytest.mark.parametrize("name", NAMES)
def test_records_without_a_required_field_or_with_a_wrong_type_are_rejected(name: str) -> None:
    example = EXAMPLES[name]
    second = list(example)[1]
    assert f"'{second}' is a required property" in (problem({k: v for k, v in example.items() if k != second}) or "")
    assert problem({**example, second: ["x"]}) is not None


def test_rows_of_capfilt_have_the_columns_of_a_score_file() -> None:
    assert fields("capfilt") == ["schema", *COLUMNS]
    bad = {"schema": "capfilt/1", "key": "a", "shard": "a.tar", "kind": None, "error": "not an image"}
    assert problem(bad) is None


def test_vqa_and_nlvr_examples_fit() -> None:
    base: dict[str, Any] = {"schema": "eval-example/1", "key": "1"}
    base["scores"] = {"accuracy": 0.667}
    vqa = {**base, "task": "vqa", "question": "q", "prediction": "a", "references": ["a"]}
    nlvr = {**base, "task": "nlvr", "sentence": "s", "prediction": True, "references": [True]}
    assert problem(vqa) is None and problem(nlvr) is None


def test_error_records_are_valid_in_place_of_results() -> None:
    error = {"schema": "caption/1", "key": "bad.jpg", "error": {"type": "UnreadableImage", "reason": "truncated image"}}
    assert problem(error) is None
    assert "'reason' is a required property" in (problem({**error, "error": {"type": "X"}}) or "")


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'caption'"):
        schema("captions")
