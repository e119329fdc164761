"""Image-text retrieval: recall at 1, 5, 10 both ways, re-ranked by matching (original: train_retrieval.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import merged_by_image, retrieval_texts
from blip.eval.base import Measure, Predictions, Report, Row, Tick, measure, percentage
from blip.eval.pairs import Encode, Ranked, TokenStore, rank_pairs
from blip.eval.photos import Photos
from blip.io.samples import ImageRef, Sample
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.errors import BadRecord, UsageError

KS = (1, 5, 10)
TO_TEXT, TO_IMAGE = "image_to_text", "text_to_image"


@dataclass(frozen=True, kw_only=True)
class RetrievalEval:
    """Recalls in percent under the original's names: txt = from photo to texts, img = from text to photos.

    k: so many texts of each photo, and photos of each text, are re-ranked by ITM logit + cosine; 0 = cosine alone.
    Rows of one image are one photo with all their texts.
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
        """A row a query: `{"direction", "query", "rank", "top"}`; ranks from 1, `top` the ten best with their scores.

        Photos are named by the key of their first row, texts by their number in the order of the (read) photos.
        """
        model.require("vision_proj")
        merged = merged_by_image(source)
        seen: list[Sample] = []
        features: list[Tensor] = []
        store = TokenStore(lambda places: _encode_again(seen, model, places))
        for numbers, pixels in photos.batches(merged, model):
            embeds = model.encode_image(pixels)
            store.add(range(len(seen), len(seen) + len(numbers)), embeds)
            features.append(model.project_image(embeds))
            seen += [merged[i] for i in numbers]
        return rank_queries(
            model,
            tokenizer,
            seen,
            features,
            store,
            k=self.k,
            max_length=self.max_length,
            max_words=self.max_words,
            ways=(TO_TEXT, TO_IMAGE),
            tick=tick,
        )

    def score(self, source: Source, predictions: Predictions) -> Report:
        merged = merged_by_image(source)
        said = {row["query"] for row in predictions if row["direction"] == TO_TEXT}
        records = [merged[i] for i in range(len(merged)) if merged[i].key in said]
        return retrieval_report(records, predictions, (TO_TEXT, TO_IMAGE), ("txt", "img"))


def _encode_again(records: Sequence[Sample], model: BlipModel, places: Sequence[int]) -> Tensor:
    """Token states of photos that there was no room for."""
    return torch.cat([model.encode_image(pixels) for _, pixels in Photos().batches(records, model, places)])


def rank_queries(
    model: BlipModel,
    tokenizer: Tokenizer,
    records: Sequence[Sample],
    features: Sequence[Tensor],
    encode: Encode,
    *,
    k: int,
    max_length: int,
    max_words: int,
    ways: tuple[str, str],
    tick: Tick | None = None,
) -> list[Row]:
    """Predictions of both directions for the images (or clips) of these records. Raises UsageError without any."""
    if not records:
        raise UsageError("nothing to rank: none of the images can be read")
    texts, keys = retrieval_texts(records, max_words), [record.key for record in records]
    text_features = inference.embed_text(model, tokenizer, texts.texts, max_length=max_length)
    numbers = [str(i) for i in range(len(texts.texts))]
    to_texts, to_images = rank_pairs(
        model,
        tokenizer,
        encode,
        torch.cat(list(features)),
        text_features,
        texts.texts,
        texts.text_to_image,
        k=k,
        max_length=max_length,
        tick=tick,
    )
    return [*_queries(ways[0], keys, to_texts, numbers), *_queries(ways[1], numbers, to_images, keys)]


def _queries(way: str, queries: Sequence[str], found: Ranked, named: Sequence[str]) -> list[Row]:
    lists = zip(queries, found.ranks.tolist(), found.top.tolist(), found.scores.tolist(), strict=True)
    return [
        {
            "direction": way,
            "query": query,
            "rank": rank + 1,
            "top": [[named[i], score] for i, score in zip(top, scores, strict=True)],
        }
        for query, rank, top, scores in lists
    ]


def retrieval_report(
    records: Sequence[Sample], predictions: Predictions, ways: tuple[str, str], names: tuple[str, str]
) -> Report:
    """Rows and recalls of the queries of these images; a resampling draws images, each with all its texts."""
    texts = retrieval_texts(records)
    text_keys = [str(i) for i in range(len(texts.texts))]
    owner = {text: records[i].key for text, i in zip(text_keys, texts.text_to_image, strict=True)}
    own = {record.key: {str(t) for t in texts.image_to_texts[i]} for i, record in enumerate(records)}
    given = {(row["direction"], str(row["query"])): row for row in predictions}
    rows: list[Row] = []
    images: list[tuple[ImageRef, ...]] = []
    for record in records:
        rows.append(_row(_found(given, ways[0], record.key), own[record.key]) | {"references": list(record.texts)})
        images.append((record.image,))
    for text, key in owner.items():
        rows.append(_row(_found(given, ways[1], text), {key}) | {"text": texts.texts[int(text)]})
        images.append((records[texts.text_to_image[int(text)]].image,))
    measures = _recalls(np.array([row["rank"] for row in rows]), texts.text_to_image, names)
    return Report(measures=measures, rows=rows, predictions=[dict(p) for p in predictions], images=images)


def _found(given: Mapping[tuple[str, str], Mapping[str, Any]], way: str, query: str) -> Mapping[str, Any]:
    if (way, query) not in given:
        raise BadRecord("predictions", f"none for query '{query}' ({way.replace('_', ' ')})")
    return given[way, query]


def _row(prediction: Mapping[str, Any], own: set[str]) -> Row:
    """An example of a query. Without a rank: that of the first own one among the best, or behind them all."""
    top = [(str(name), score) for name, score in prediction["top"]]
    behind = len(top)
    rank = int(prediction.get("rank", next((i for i, (name, _) in enumerate(top) if name in own), behind) + 1))
    return {
        "task": "retrieval",
        "key": str(prediction["query"]),
        "direction": prediction["direction"],
        "rank": rank,
        "top": [[name, f"{score:.4g}"] for name, score in top],
        "scores": {f"r{k}": int(rank <= k) for k in KS},
    }


def _recalls(ranks: Any, owners: Sequence[int], names: tuple[str, str]) -> dict[str, Measure]:
    """R@k of both directions and their means. ranks [N + M] from 1, those of the N images first."""
    count, owner = len(ranks) - len(owners), np.asarray(owners)
    texts = np.bincount(owner, minlength=count).astype(float)
    measures: dict[str, Measure] = {}
    columns = []
    for name, size in zip(names, (len(owners), count), strict=True):
        for k in KS:
            if name == names[0]:
                hits, queries = (ranks[:count] <= k).astype(float), np.ones(count)
                chance = 100 * float(np.mean([_chance(int(own), size, k) for own in texts]))
            else:
                hits = np.bincount(owner, weights=ranks[count:] <= k, minlength=count)
                queries, chance = texts, 100 * min(1.0, k / size)
            columns.append(np.stack([hits, queries], axis=1))
            measures[f"{name}_r{k}"] = measure(columns[-1], percentage, unit="percent", chance=chance)
        measures[f"{name}_r_mean"] = _mean(columns[-len(KS) :])
    measures["r_mean"] = _mean(columns)
    return measures


def _mean(columns: Sequence[Any]) -> Measure:
    """The mean of several recalls, resampled together."""
    stats = np.concatenate(columns, axis=1)
    return measure(
        stats,
        lambda rows: float(np.mean([percentage(rows[:, i : i + 2]) for i in range(0, rows.shape[1], 2)])),
        unit="percent",
    )


def _chance(own: int, size: int, k: int) -> float:
    """That at least one of `own` among `size` is in the first k of a random order."""
    none = 1.0
    for i in range(min(k, size)):
        none *= max(0.0, (size - own - i) / (size - i))
    return 1 - none
