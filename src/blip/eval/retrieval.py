"""Image-text retrieval: recall at 1, 5, 10 in both directions, re-ranked by ITM (original: train_retrieval.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import merged_by_image, retrieval_texts
from blip.eval.base import Measure, Predictions, Report, Row, Tick, measure, percentage
from blip.eval.pairs import Ranking, TokenStore, rank_pairs
from blip.eval.photos import Photos
from blip.io.samples import ImageRef, Sample
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.errors import BadRecord, UsageError

KS = (1, 5, 10)
TO_TEXT, TO_IMAGE = "image_to_text", "text_to_image"


class Encoded(NamedTuple):
    """Samples whose images (or clips) are encoded: image_embeds [B, N, D] and unit vectors [B, E]."""

    samples: list[Sample]
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

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return reading.open(spec, need_text=True)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """One row per query: `{"direction", "query", "rank", "top"}`; ranks from 1, `top` the ten best with scores.

        Images are named by the key of their first row, texts by their number in the order of the readable images.
        """
        merged = merged_by_image(source)

        def encode() -> Iterator[Encoded]:
            for chosen, pixels in photos.batches(merged, model):
                embeds = model.encode_image(pixels)
                yield Encoded([merged[i] for i in chosen], embeds, model.project_image(embeds))

        def encode_again(samples: Sequence[Sample]) -> Tensor:
            return torch.cat([model.encode_image(pixels) for _, pixels in Photos().batches(samples, model)])

        options = RankingOptions(k=self.k, max_length=self.max_length, max_words=self.max_words)
        return rank_queries(model, tokenizer, encode(), encode_again, options, (TO_TEXT, TO_IMAGE), tick)

    def score(self, source: Source, predictions: Predictions) -> Report:
        return retrieval_report(source, predictions, (TO_TEXT, TO_IMAGE), ("txt", "img"))


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """Number of re-ranked candidates, token limit and word limit of texts."""

    k: int
    max_length: int
    max_words: int


def rank_queries(
    model: BlipModel,
    tokenizer: Tokenizer,
    encoded: Iterable[Encoded],
    encode_again: Callable[[Sequence[Sample]], Tensor],
    options: RankingOptions,
    directions: tuple[str, str],
    tick: Tick | None = None,
) -> list[Row]:
    """Predictions of both directions for images or clips. Raises UsageError if there are none.

    encode_again: image_embeds of samples whose states did not fit into memory.
    """
    model.require("vision_proj")
    samples: list[Sample] = []
    features: list[Tensor] = []
    store = TokenStore(lambda numbers: encode_again([samples[i] for i in numbers]))
    for batch in encoded:
        store.add(range(len(samples), len(samples) + len(batch.samples)), batch.image_embeds)
        features.append(batch.features)
        samples += batch.samples
    if not samples:
        raise UsageError("nothing to rank: none of the images can be read")
    texts, keys = retrieval_texts(samples, options.max_words), [sample.key for sample in samples]
    by_image, by_text = rank_pairs(
        model,
        tokenizer,
        store,
        torch.cat(features),
        inference.embed_text(model, tokenizer, texts.texts, max_length=options.max_length),
        texts.texts,
        texts.text_to_image,
        k=options.k,
        max_length=options.max_length,
        tick=tick,
    )
    numbers = [str(i) for i in range(len(texts.texts))]
    return [*_queries(directions[0], keys, by_image, numbers), *_queries(directions[1], numbers, by_text, keys)]


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
    source: Source, predictions: Predictions, directions: tuple[str, str], names: tuple[str, str]
) -> Report:
    """Rows and recalls of the images that have predictions; bootstrap draws images, each with all its texts."""
    merged, given = merged_by_image(source), {(row["direction"], str(row["query"])): row for row in predictions}
    samples = [merged[i] for i in range(len(merged)) if (directions[0], merged[i].key) in given]
    texts = retrieval_texts(samples)
    rows: list[Row] = []
    images: list[tuple[ImageRef, ...]] = []
    for sample, numbers in zip(samples, texts.image_to_texts, strict=True):
        prediction = _prediction(given, directions[0], sample.key)
        rows.append(_row(prediction, {str(i) for i in numbers}) | {"references": list(sample.texts)})
        images.append((sample.image,))
    for number, (text, owner) in enumerate(zip(texts.texts, texts.text_to_image, strict=True)):
        prediction = _prediction(given, directions[1], str(number))
        rows.append(_row(prediction, {samples[owner].key}) | {"text": text})
        images.append((samples[owner].image,))
    measures = _recalls(np.array([row["rank"] for row in rows]), texts.text_to_image, names)
    return Report(measures=measures, rows=rows, predictions=[dict(p) for p in predictions], images=images)


def _prediction(given: Mapping[tuple[str, str], Mapping[str, Any]], direction: str, query: str) -> Mapping[str, Any]:
    if (direction, query) not in given:
        raise BadRecord("predictions", f"none for query '{query}' ({direction.replace('_', ' ')})")
    return given[direction, query]


def _row(prediction: Mapping[str, Any], correct: set[str]) -> Row:
    """Example row of a query. A prediction without a rank gets that of the first correct item, or the last."""
    top = [(str(name), score) for name, score in prediction["top"]]
    last = len(top)
    rank = int(prediction.get("rank", next((i for i, (name, _) in enumerate(top) if name in correct), last) + 1))
    return {
        "task": "retrieval",
        "key": str(prediction["query"]),
        "direction": prediction["direction"],
        "rank": rank,
        "top": [[name, f"{score:.4g}"] for name, score in top],
        "scores": {f"r{k}": int(rank <= k) for k in KS},
    }


def _recalls(ranks: Any, owners: Sequence[int], names: tuple[str, str]) -> dict[str, Measure]:
    """R@k of both directions and their means. ranks [N + M] from 1, of N images, then M texts."""
    count, owner = len(ranks) - len(owners), np.asarray(owners)
    texts = np.bincount(owner, minlength=count).astype(float)
    measures: dict[str, Measure] = {}
    columns = []
    for name, size in zip(names, (len(owners), count), strict=True):
        for k in KS:
            if name == names[0]:
                hits, queries = (ranks[:count] <= k).astype(float), np.ones(count)
                chance = 100 * float(np.mean([_chance(int(correct), size, k) for correct in texts]))
            else:
                hits = np.bincount(owner, weights=ranks[count:] <= k, minlength=count)
                queries, chance = texts, 100 * min(1.0, k / size)
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
