"""Caption metrics against the reference scorer's own numbers (40 rows, COCO captions CC BY 4.0)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip.metrics.caption import Cider, bleu, score_captions, tokenize


@pytest.fixture(scope="module")
def reference() -> Any:
    return json.loads((Path(__file__).parent / "caption_reference.json").read_text())


def split(rows: Any) -> tuple[list[list[list[str]]], list[list[str]]]:
    return [[r.split() for r in row["reference_tokens"]] for row in rows], [row["tokens"].split() for row in rows]


def test_bleu_equals_the_reference_scorer(reference: Any) -> None:
    assert bleu(*split(reference["items"])) == pytest.approx(reference["bleu"], abs=1e-6)


def test_cider_equals_the_reference_scorer(reference: Any) -> None:
    references, captions = split(reference["items"])
    scorer = Cider(references)
    scores = [scorer.score(i, caption) for i, caption in enumerate(captions)]
    assert scores == pytest.approx([row["cider"] for row in reference["items"]], abs=1e-6)


def test_tokens_equal_the_reference_tokenizer(reference: Any) -> None:
    for row in reference["items"]:
        for text, tokens in zip(
            [row["caption"], *row["references"]], [row["tokens"], *row["reference_tokens"]], strict=True
        ):
            assert tokenize(text) == tokens.split()


def test_a_set_of_strings_is_scored_at_once(reference: Any) -> None:
    rows = reference["items"]
    scores = score_captions([row["references"] for row in rows], [row["caption"] for row in rows])
    assert scores["cider"] == pytest.approx(reference["cider"], abs=1e-6)
    assert scores["bleu4"] == pytest.approx(reference["bleu"][3], abs=1e-6)


def test_empty_captions_score_nothing_and_break_nothing() -> None:
    scores = score_captions([["a dog"], ["a cat on a mat"]], ["", "a cat on a mat"])
    assert 0 <= scores["bleu4"] <= 1
    assert scores["cider"] > 0
