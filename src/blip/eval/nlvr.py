"""NLVR2: accuracy of true or false about two images (original: train_nlvr.py evaluate)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import ImagePair, image_pair, row_ids
from blip.eval.base import Predictions, Report, Row, Tick, measure
from blip.eval.photos import Photos
from blip.eval.predictions import NLVR, Form, match
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer

ID = "identifier"


@dataclass(frozen=True, kw_only=True)
class NlvrEval:
    """Accuracy and, if identifiers show which rows share a sentence, consistency (all rows of a sentence right).

    order: "given"; "both" averages the probability of true over the pair and the swapped pair; "random" swaps half of
    the pairs, as the original does in evaluation too, so that its accuracy depends on `seed` (blip-spec 7.8).
    """

    order: Literal["given", "both", "random"] = "given"
    seed: int = 0

    name: ClassVar[str] = "nlvr"
    capability: ClassVar[str] = "compare"
    form: ClassVar[Form] = NLVR
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "consistency")

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return reading.open(spec, check=image_pair)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """Return `{"identifier", "prediction", "score"}`; the score is the probability that the sentence is true."""
        model.require("nlvr_head")
        draws = np.random.RandomState(self.seed).random_sample(len(source))
        ids, rows = list(map(str, row_ids(source, ID))), list[Row]()
        for numbers, first, second in _pairs(source, photos, model):
            pairs = [image_pair(source[i]) for i in numbers]
            swapped = [self.order == "random" and draws[i] >= 0.5 for i in numbers]
            probabilities = _probabilities(model, tokenizer, pairs, first, second, swapped)
            if self.order == "both":
                both = [True] * len(pairs)
                probabilities = (probabilities + _probabilities(model, tokenizer, pairs, first, second, both)) / 2
            rows += [
                {"identifier": ids[i], "prediction": probability > 0.5, "score": probability}
                for i, probability in zip(numbers, probabilities.tolist(), strict=True)
            ]
            if tick:
                tick(len(rows), len(source))
        return rows

    def score(self, source: Source, predictions: Predictions, *, allow_missing: bool = False) -> Report:
        ids = list(map(str, row_ids(source, ID)))
        parsed = self.form.parse(predictions)
        matched = match(ids, parsed, lambda row: str(row["identifier"]), allow_missing=allow_missing)
        chosen = [(name, source[i]) for i, name in enumerate(ids) if name in matched.rows]
        pairs = [image_pair(sample) for _, sample in chosen]
        rows: list[Row] = []
        for (name, _), pair in zip(chosen, pairs, strict=True):
            prediction = matched.rows[name]
            answer, truth = prediction["prediction"], bool(pair.label)
            scores = {"accuracy": float(answer == truth)}
            if "score" in prediction:
                scores["true"] = prediction["score"]
            rows.append(
                {
                    "task": "nlvr",
                    "key": name,
                    "sentence": pair.sentence,
                    "prediction": answer,
                    "references": [truth],
                    "scores": scores,
                }
            )
        right = np.array([row["scores"]["accuracy"] for row in rows])
        labels = np.array([pair.label for pair in pairs], dtype=float)
        measures = {"accuracy": measure(right, unit="share", chance=_majority(labels))}
        groups = _by_sentence([row["key"] for row in rows], right)
        if groups is not None:
            measures["consistency"] = measure(groups, unit="share of sentences")
        return Report(
            measures=measures,
            rows=rows,
            predictions=[matched.rows[name] for name in dict(chosen)],
            images=[sample.images for _, sample in chosen],
            coverage=matched.coverage,
        )


def _probabilities(
    model: BlipModel, tokenizer: Tokenizer, pairs: list[ImagePair], first: Tensor, second: Tensor, swapped: list[bool]
) -> Tensor:
    """Probability [B] that each sentence is true; `swapped` pairs are exchanged, with the words left and right."""
    sentences = [(pair.swapped() if swap else pair).sentence for pair, swap in zip(pairs, swapped, strict=True)]
    swap_mask = torch.tensor(swapped, device=first.device)[:, None, None, None]
    left, right = torch.where(swap_mask, second, first), torch.where(swap_mask, first, second)
    return inference.reason(model, tokenizer, left, right, sentences)


def _pairs(source: Source, photos: Photos, model: BlipModel) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield sample numbers and the pixels of their two images, in batches."""
    pairs = ((i, source[i], image_pair(source[i])) for i in range(len(source)))
    refs = ((2 * i + side, pair.images[side], s.where or s.key) for i, s, pair in pairs for side in (0, 1))
    waiting: dict[int, Tensor] = {}
    for numbers, pixels in photos.read(refs, model):
        waiting |= dict(zip(numbers, pixels, strict=True))
        complete = [n // 2 for n in waiting if n % 2 == 0 and n + 1 in waiting]
        if complete:
            first, second = (torch.stack([waiting.pop(2 * i + side) for i in complete]) for side in (0, 1))
            yield complete, first, second


def _majority(labels: np.ndarray) -> float:
    """Accuracy of always giving the more frequent label."""
    return float(max(labels.mean(), 1 - labels.mean())) if len(labels) else 0.5


def _by_sentence(keys: list[str], right: np.ndarray) -> list[float] | None:
    """1.0 per sentence whose rows are all right, from identifiers `split-set-pair-sentence`; None without these."""
    if not keys or not all(key.count("-") == 3 for key in keys):
        return None
    groups: dict[tuple[str, str, str], float] = {}
    for key, value in zip(keys, right, strict=True):
        split, number, _, sentence = key.split("-")
        group = (split, number, sentence)
        groups[group] = min(groups.get(group, 1.0), float(value))
    return list(groups.values())
