"""Image-text retrieval: recall at 1, 5, 10 in both directions, re-ranked by ITM (original: train_retrieval.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Reading, SampleList, Source, Spec
from blip.data.task_rows import RetrievalTexts, merged_by_image, retrieval_texts, unique_keys
from blip.eval.base import Measure, Predictions, Report, Row, Tick, measure, percentage
from blip.eval.pairs import Ranking, TokenStore, rank_pairs
from blip.eval.photos import Photos
from blip.eval.predictions import RANKING, Form, match
from blip.io.samples import Sample
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.errors import UsageError

KS = (1, 5, 10)
TO_TEXT, TO_IMAGE = "image_to_text", "text_to_image"


def recall_names(*directions: str) -> tuple[str, ...]:
    """Names of the metrics of `retrieval_report`."""
    return (*(f"{name}_r{k}" for name in directions for k in (*KS, "_mean")), "r_mean")


class Encoded(NamedTuple):
    """Numbers of samples whose images (or clips) are encoded: image_embeds [B, N, D] and unit vectors [B, E]."""

    numbers: list[int]
    image_embeds: Tensor
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class RetrievalEval:
    """Recalls in percent under the original's names: txt = texts by image, img = images by text.

    k: number of texts per image, and of images per text, that are re-ranked by ITM logit + cosine; 0 = cosine alone.
    Rows of one image are merged into one image with all their texts.
    """

    k: int = 256
    max_length: int = 35
    max_words: int = 30

    name: ClassVar[str] = "retrieval"
    capability: ClassVar[str] = "match"
    form: ClassVar[Form] = RANKING
    metric_names: ClassVar[tuple[str, ...]] = recall_names("txt", "img")

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return reading.open(spec, need_text=True)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """One row per query: `{"direction", "query", "rank", "top"}`; ranks from 1, `top` the ten best with scores.

        Images are named by the key of their first row, texts by their number in the order of the data.
        """
        merged = merged_by_image(source)

        def encode() -> Iterator[Encoded]:
            for chosen, pixels in photos.batches(merged, model):
                embeds = model.encode_image(pixels)
                yield Encoded(chosen, embeds, model.project_image(embeds))

        def encode_again(samples: Sequence[Sample]) -> Tensor:
            return torch.cat([model.encode_image(pixels) for _, pixels in Photos().batches(samples, model)])

        options = RankingOptions(k=self.k, max_length=self.max_length, max_words=self.max_words)
        return rank_queries(model, tokenizer, merged, encode(), encode_again, options, (TO_TEXT, TO_IMAGE), tick)

    def score(self, source: Source, predictions: Predictions, *, allow_missing: bool = False) -> Report:
        rows = self.form.parse(predictions)
        return retrieval_report(source, rows, (TO_TEXT, TO_IMAGE), ("txt", "img"), allow_missing=allow_missing)


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """Number of re-ranked candidates, token limit and word limit of texts."""

    k: int
    max_length: int
    max_words: int


def rank_queries(
    model: BlipModel,
    tokenizer: Tokenizer,
    merged: SampleList,
    encoded: Iterable[Encoded],
    encode_again: Callable[[Sequence[Sample]], Tensor],
    options: RankingOptions,
    directions: tuple[str, str],
    tick: Tick | None = None,
) -> list[Row]:
    """Predictions of both directions for images or clips, one sample each. Raises UsageError if none can be read.

    encode_again: image_embeds of samples whose states did not fit into memory.
    """
    model.require("vision_proj")
    numbers: list[int] = []
    features: list[Tensor] = []
    store = TokenStore(lambda chosen: encode_again([merged[numbers[i]] for i in chosen]))
    for batch in encoded:
        store.add(range(len(numbers), len(numbers) + len(batch.numbers)), batch.image_embeds)
        features.append(batch.features)
        numbers += batch.numbers
    if not numbers:
        raise UsageError("nothing to rank: none of the images can be read")
    texts = retrieval_texts(merged, options.max_words)
    chosen = [text for i in numbers for text in texts.image_to_texts[i]]
    words = [texts.texts[i] for i in chosen]
    owners = [place for place, i in enumerate(numbers) for _ in texts.image_to_texts[i]]
    by_image, by_text = rank_pairs(
        model,
        tokenizer,
        store,
        torch.cat(features),
        inference.embed_text(model, tokenizer, words, max_length=options.max_length),
        words,
        owners,
        k=options.k,
        max_length=options.max_length,
        tick=tick,
    )
    all_keys = unique_keys(merged.samples)
    keys, text_names = [all_keys[i] for i in numbers], [str(i) for i in chosen]
    return [*_queries(directions[0], keys, by_image, text_names), *_queries(directions[1], text_names, by_text, keys)]


def _queries(direction: str, queries: Sequence[str], ranking: Ranking, names: Sequence[str]) -> list[Row]:
    lists = zip(queries, ranking.ranks.tolist(), ranking.top.tolist(), ranking.scores.tolist(), strict=True)
    return [
        {
            "direction": direction,
            "query": query,
            "rank": rank + 1,
            "top": [[names[i], score] for i, score in zip(top, scores, strict=True)],
        }
        for query, rank, top, scores in lists
    ]


def retrieval_report(
    source: Source,
    predictions: Sequence[Row],
    directions: tuple[str, str],
    names: tuple[str, str],
    *,
    allow_missing: bool,
) -> Report:
    """Rows and recalls of the queries that have predictions; bootstrap draws images, each with all its texts."""
    merged = merged_by_image(source)
    keys, texts = unique_keys(merged.samples), retrieval_texts(merged)
    queries = [(directions[0], key) for key in keys] + [(directions[1], str(i)) for i in range(len(texts.texts))]
    ids = [f"{direction} of {query}" for direction, query in queries]
    matched = match(ids, predictions, lambda p: f"{p['direction']} of {p['query']}", allow_missing=allow_missing)
    chosen = [i for i, name in enumerate(ids) if name in matched.rows]
    numbers = {str(i): text for i, text in enumerate(texts.texts)}
    rows: list[Row] = []
    for i in chosen:
        row, place = matched.rows[ids[i]], i - len(keys)
        if place < 0:
            example = _row(row, set(map(str, texts.image_to_texts[i]))) | {"references": list(merged[i].texts)}
            rows.append(example | {"retrieved": [numbers.get(name, "") for name, _ in example["top"]]})
        else:
            rows.append(_row(row, {keys[texts.text_to_image[place]]}) | {"text": texts.texts[place]})
    owners = [i if i < len(keys) else texts.text_to_image[i - len(keys)] for i in chosen]
    return Report(
        measures=_recalls([row["rank"] for row in rows], [i < len(keys) for i in chosen], owners, texts, names),
        rows=rows,
        predictions=[matched.rows[ids[i]] for i in chosen],
        images=[(merged[owner].image,) for owner in owners],
        coverage=matched.coverage,
    )


def _row(prediction: Row, correct: set[str]) -> Row:
    """Example row of a query. A prediction without a rank gets that of the first correct item, or the last."""
    top = prediction.get("top") or []
    rank = prediction.get("rank", next((i for i, (name, _) in enumerate(top) if name in correct), len(top)) + 1)
    return {
        "task": "retrieval",
        "key": str(prediction["query"]),
        "direction": prediction["direction"],
        "rank": rank,
        "top": [[name, f"{score:.4g}"] for name, score in top],
        "scores": {f"r{k}": int(rank <= k) for k in KS},
    }


def _recalls(
    ranks: Sequence[int], to_text: Sequence[bool], owners: Sequence[int], texts: RetrievalTexts, names: tuple[str, str]
) -> dict[str, Measure]:
    """R@k of both directions and their means. ranks from 1; owners: the image of each query."""
    rank, is_text = np.asarray(ranks), np.asarray(to_text, dtype=bool)
    images, owner = np.unique(np.asarray(owners), return_inverse=True)
    correct = [len(texts.image_to_texts[i]) for i in np.asarray(owners)[is_text]]
    text_count = sum(len(texts.image_to_texts[i]) for i in images)
    measures: dict[str, Measure] = {}
    columns = []
    for name, chosen in zip(names, (is_text, ~is_text), strict=True):
        queries = np.bincount(owner[chosen], minlength=len(images)).astype(float)
        if not chosen.any():
            continue
        for k in KS:
            hits = np.bincount(owner[chosen], weights=rank[chosen] <= k, minlength=len(images))
            if name == names[0]:
                chance = 100 * float(np.mean([_chance(n, text_count, k) for n in correct]))
            else:
                chance = 100 * min(1.0, k / len(images))
            columns.append(np.stack([hits, queries], axis=1))
            measures[f"{name}_r{k}"] = measure(columns[-1], percentage, unit="percent", chance=chance)
        measures[f"{name}_r_mean"] = _mean(columns[-len(KS) :])
    measures["r_mean"] = _mean(columns)
    return measures


def _mean(columns: Sequence[Any]) -> Measure:
    """Mean of several recalls, resampled together."""
    stats = np.concatenate(columns, axis=1)
    return measure(
        stats,
        lambda rows: float(np.mean([percentage(rows[:, i : i + 2]) for i in range(0, rows.shape[1], 2)])),
        unit="percent",
    )


def _chance(correct: int, size: int, k: int) -> float:
    """Probability that at least one of `correct` items among `size` is in the first k of a random order."""
    missed = 1.0
    for i in range(min(k, size)):
        missed *= max(0.0, (size - correct - i) / (size - i))
    return 1 - missed
