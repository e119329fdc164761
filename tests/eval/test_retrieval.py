"""Retrieval evaluation: against every pair scored plainly, ranks out of lists, chance levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from blip import inference
from blip.data.sources import SampleList, open_source
from blip.data.task_rows import retrieval_texts
from blip.eval.photos import Photos
from blip.eval.retrieval import RetrievalEval
from blip.eval.run import run
from blip_lite.errors import CheckpointError, UsageError
from tests.eval.dense import ranks, recalls
from tests.eval.photos import caption_rows, model, write_list
from tests.oracle_files import tensors, values


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SampleList:
    return open_source(write_list(tmp_path_factory.mktemp("eval"), "test.json", caption_rows()))


@pytest.mark.parametrize("k", [0, 16])
def test_recalls_equal_those_of_all_pairs(source: SampleList, k: int) -> None:
    loaded = model("retrieval")
    report = run(RetrievalEval(k=k), loaded.model, loaded.tokenizer, source)
    texts = retrieval_texts(source, 30)
    with torch.inference_mode():
        ((_, pixels),) = Photos().batches(source, loaded.model)
        embeds = loaded.model.encode_image(pixels)
        scores = inference.match(loaded.model, loaded.tokenizer, embeds, texts.texts).itc
        if k:
            encoded = loaded.tokenizer.encode(list(texts.texts), first="enc", max_length=35)
            for i in range(8):
                logits = [
                    loaded.model.match_logits(
                        loaded.model.fuse(encoded.input_ids[[j]], encoded.attention_mask[[j]], embeds[[i]])
                    )[0, 1]
                    for j in range(16)
                ]
                scores[i] += torch.stack(logits)
    expected = recalls(scores.numpy(), np.array(texts.text_to_image))
    assert {name: report.metrics[name] for name in expected} == pytest.approx(expected)


def test_rows_tell_rank_and_best_of_both_ways(source: SampleList) -> None:
    loaded = model("retrieval")
    report = run(RetrievalEval(k=4), loaded.model, loaded.tokenizer, source)
    assert [row["direction"] for row in report.rows] == ["image_to_text"] * 8 + ["text_to_image"] * 16
    first = report.rows[0]
    assert first["key"] == "red.png" and first["scores"]["r1"] == (first["rank"] == 1) and len(first["top"]) == 4
    texts = retrieval_texts(source).texts
    assert first["retrieved"] == [texts[int(name)] for name, _ in first["top"]]
    assert report.rows[8]["text"] == "a red wall" and all(name.endswith(".png") for name, _ in report.rows[8]["top"])


def test_lists_from_elsewhere_give_ranks(source: SampleList) -> None:
    lists = [
        {"direction": "image_to_text", "query": record.key, "top": [["0", 1.0], [str(2 * i), 0.5]]}
        for i, record in enumerate(source.samples)
    ] + [
        {"direction": "text_to_image", "query": str(i), "top": [["red.png", 1.0], ["green.png", 0.5]]}
        for i in range(16)
    ]
    report = RetrievalEval().score(source, lists)
    assert report.metrics["txt_r1"] == pytest.approx(12.5) and report.metrics["txt_r5"] == pytest.approx(100)
    assert report.metrics["img_r1"] == pytest.approx(12.5) and report.metrics["img_r10"] == pytest.approx(100)
    with pytest.raises(UsageError, match=r"16 of 24 ids in the data have no prediction \('text_to_image of 0', ...\)"):
        RetrievalEval().score(source, lists[:8])
    half = RetrievalEval().score(source, lists[:8], allow_missing=True)
    assert half.metrics["txt_r1"] == pytest.approx(12.5) and "img_r1" not in half.metrics


def test_chance_is_that_of_a_random_order(source: SampleList) -> None:
    loaded = model("retrieval")
    measures = run(RetrievalEval(k=0), loaded.model, loaded.tokenizer, source).measures
    assert measures["txt_r1"].chance == pytest.approx(100 * 2 / 16)
    assert measures["txt_r5"].chance == pytest.approx(100 * (1 - (14 * 13 * 12 * 11 * 10) / (16 * 15 * 14 * 13 * 12)))
    assert measures["img_r5"].chance == pytest.approx(100 * 5 / 8)


def test_a_photo_that_cannot_be_read_is_not_ranked(tmp_path: Path) -> None:
    bad = open_source(write_list(tmp_path, "test.json", caption_rows()))
    (tmp_path / "blue.png").unlink()
    loaded = model("retrieval")
    report = run(RetrievalEval(k=4), loaded.model, loaded.tokenizer, bad, photos=Photos(skip_bad=True))
    assert sum(row["direction"] == "text_to_image" for row in report.rows) == 14 and len(report.failed) == 1


@pytest.mark.parametrize("case", ["k4", "k8", "k12"])
def test_recalls_of_recorded_scores_equal_the_original(tmp_path: Path, case: str) -> None:
    recorded, metrics = tensors("retrieval_eval"), values("retrieval_eval")[f"{case}.metrics"]
    rows = [{"image": f"{i}.png", "caption": [f"{i} a", f"{i} b"]} for i in range(12)]
    records = open_source(write_list(tmp_path, "test.json", rows)).samples
    to_texts, to_images = recorded[f"{case}.score_i2t"].numpy(), recorded[f"{case}.score_t2i"].numpy().T
    owner = np.arange(24) // 2
    predictions = [
        {"direction": way, "query": query, "rank": int(rank) + 1, "top": []}
        for way, queries, lists in (
            ("image_to_text", [record.key for record in records], ranks(to_texts, owner)[0]),
            ("text_to_image", map(str, range(24)), ranks(to_images, owner)[1]),
        )
        for query, rank in zip(queries, lists, strict=True)
    ]
    report = RetrievalEval().score(SampleList(records), predictions)
    for k in (1, 5, 10):
        if k <= int(case[1:]):  # beyond, the original ranks unscored pairs by chance
            assert report.metrics[f"txt_r{k}"] == pytest.approx(metrics[f"txt_r{k}"])
            assert report.metrics[f"img_r{k}"] == pytest.approx(metrics[f"img_r{k}"])


@pytest.mark.parametrize(("k", "name"), [(0, "vision_proj"), (4, "itm_head")])
def test_a_model_that_computes_no_numbers_is_an_error(source: SampleList, k: int, name: str) -> None:
    loaded = model("retrieval")
    with torch.no_grad():
        getattr(loaded.model, name).weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite numbers: its weights are damaged"):
        run(RetrievalEval(k=k), loaded.model, loaded.tokenizer, source)
