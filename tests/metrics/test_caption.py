"""Caption metrics against the reference scorer's own numbers (40 rows, COCO captions CC BY 4.0)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip.metrics.caption import (
    SET_SCORES,
    Cider,
    bleu_counts,
    bleu_scores,
    caption_scores,
    caption_statistics,
    rouge_l,
    score_captions,
    tokenize,
)


@pytest.fixture(scope="module")
def reference() -> Any:
    return json.loads((Path(__file__).parent / "caption_reference.json").read_text())


def split(rows: Any) -> tuple[list[list[list[str]]], list[list[str]]]:
    return [[r.split() for r in row["reference_tokens"]] for row in rows], [row["tokens"].split() for row in rows]


def strings(rows: Any) -> tuple[list[list[str]], list[str]]:
    return [row["references"] for row in rows], [row["caption"] for row in rows]


def bleu(references: list[list[list[str]]], captions: list[list[str]]) -> list[float]:
    """BLEU-1..4 over a set of tokenized captions."""
    counts = [bleu_counts(refs, caption) for refs, caption in zip(references, captions, strict=True)]
    return [float(score) for score in bleu_scores(np.sum(counts, axis=0, dtype=np.float64))]


def test_bleu_equals_the_reference_scorer(reference: Any) -> None:
    assert bleu(*split(reference["items"])) == pytest.approx(reference["bleu"], abs=1e-6)


def test_rouge_equals_the_reference_scorer(reference: Any) -> None:
    scores = [rouge_l(refs, caption) for refs, caption in zip(*split(reference["items"]), strict=True)]
    assert scores == pytest.approx([row["rouge_l"] for row in reference["items"]], abs=1e-6)


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
    scores = score_captions(*strings(reference["items"]))
    expected = {f"bleu{n + 1}": value for n, value in enumerate(reference["bleu"])}
    assert scores == pytest.approx({**expected, "rouge_l": reference["rouge_l"], "cider": reference["cider"]}, abs=1e-6)


def test_scores_of_single_captions_equal_the_reference_scorer(reference: Any) -> None:
    scores = caption_scores(caption_statistics(*strings(reference["items"])))
    for name in ("rouge_l", "cider"):
        assert scores[name] == pytest.approx([row[name] for row in reference["items"]], abs=1e-6)
    for n in range(4):
        assert scores[f"bleu{n + 1}"] == pytest.approx([row["bleu"][n] for row in reference["items"]], abs=1e-6)


def test_resampled_rows_give_the_scores_of_the_resampled_captions(reference: Any) -> None:
    references, captions = strings(reference["items"])
    drawn = np.random.default_rng(0).integers(0, len(captions), len(captions))
    statistics = caption_statistics(references, captions)
    again = score_captions([references[i] for i in drawn], [captions[i] for i in drawn])
    for name in ("bleu1", "bleu4", "rouge_l"):  # CIDEr-D keeps the document frequencies of the whole set
        assert SET_SCORES[name](statistics[name][drawn]) == pytest.approx(again[name], abs=1e-12)
    single = caption_scores(statistics)["cider"][drawn]
    assert SET_SCORES["cider"](statistics["cider"][drawn]) == pytest.approx(single.mean())


def test_rouge_takes_the_best_precision_and_the_best_recall() -> None:
    short, long = ["a", "dog"], ["a", "big", "dog", "runs", "on", "grass"]
    caption = ["a", "dog", "runs"]
    assert rouge_l([short], caption) == pytest.approx(2.44 * (2 / 3) * 1 / (1 + 1.44 * 2 / 3))
    assert rouge_l([long], caption) == pytest.approx(2.44 * 1 * (3 / 6) / (3 / 6 + 1.44 * 1))
    assert rouge_l([short, long], caption) == pytest.approx(1.0)


def test_rouge_counts_words_in_order() -> None:
    # the longest common subsequence is "b a" or "b c" or "a b", two words of three
    assert rouge_l([["b", "c", "a"]], ["a", "b", "a"]) == pytest.approx(2 / 3)
    assert rouge_l([["x"]], ["a", "b"]) == 0.0


def test_bleu_of_a_short_caption_is_cut_by_the_nearest_length() -> None:
    # 2 words against the nearer of 3 and 9
    scores = bleu([[["a", "dog", "runs"], ["x"] * 9]], [["a", "dog"]])
    assert scores[:2] == pytest.approx([np.exp(1 - 3 / 2)] * 2)


def test_empty_captions_score_nothing_and_break_nothing() -> None:
    scores = score_captions([["a dog"], ["a cat on a mat"]], ["", "a cat on a mat"])
    assert 0 <= scores["bleu4"] <= 1
    assert scores["cider"] > 0
    assert scores["rouge_l"] == pytest.approx(0.5)
