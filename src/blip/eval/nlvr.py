"""NLVR2: accuracy of true or false about two photos (original: train_nlvr.py evaluate)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import ImagePair, first_of_each, image_pair
from blip.eval.base import Predictions, Report, Row, Tick, measure
from blip.eval.photos import Photos
from blip.io.samples import Sample
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class NlvrEval:
    """Accuracy and, where identifiers tell which rows share a sentence, consistency (all rows of a sentence right).

    order: "given"; "both" averages the chance of true over the pair and its swapped twin; "random" swaps half of the
    pairs, as the original does in evaluation too, so that its accuracy depends on `seed` (blip-spec 7.8).
    """

    order: Literal["given", "both", "random"] = "given"
    seed: int = 0

    name: ClassVar[str] = "nlvr"
    capability: ClassVar[str] = "compare"

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return reading.open(spec, check=image_pair)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """`{"identifier", "prediction", "score"}`: the score is the chance that the sentence is true."""
        model.require("nlvr_head")
        draws = np.random.RandomState(self.seed).random_sample(len(source))
        rows: list[Row] = []
        for numbers, first, second in _pairs(source, photos, model):
            records = [source[i] for i in numbers]
            pairs = [image_pair(record) for record in records]
            swapped = [self.order == "random" and draws[i] >= 0.5 for i in numbers]
            chances = _chances(model, tokenizer, pairs, first, second, swapped)
            if self.order == "both":
                chances = (chances + _chances(model, tokenizer, pairs, first, second, [True] * len(pairs))) / 2
            rows += [
                {"identifier": identifier(record), "prediction": chance > 0.5, "score": chance}
                for record, chance in zip(records, chances.tolist(), strict=True)
            ]
            if tick:
                tick(len(rows), len(source))
        return rows

    def score(self, source: Source, predictions: Predictions) -> Report:
        kept = first_of_each(predictions, "identifier")
        said = {str(p["identifier"]): p for p in kept}
        records = [source[i] for i in range(len(source)) if identifier(source[i]) in said]
        pairs = [image_pair(record) for record in records]
        rows: list[Row] = []
        for record, pair in zip(records, pairs, strict=True):
            given = said[identifier(record)]
            answer, truth = str(given["prediction"]).lower() == "true", bool(pair.label)
            scores = {"accuracy": float(answer == truth)}
            if "score" in given:
                scores["true"] = given["score"]
            rows.append(
                {
                    "task": "nlvr",
                    "key": identifier(record),
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
            measures=measures, rows=rows, predictions=[dict(p) for p in kept], images=[r.images for r in records]
        )


def identifier(record: Sample) -> str:
    """What names a row: its `identifier`, else its key, else its place."""
    return str(record.fields.get("identifier", record.where or record.key))


def _chances(
    model: BlipModel, tokenizer: Tokenizer, pairs: list[ImagePair], first: Tensor, second: Tensor, swapped: list[bool]
) -> Tensor:
    """Chance [B] that each sentence is true, with the pairs swapped (and left with right) where `swapped` says so."""
    sentences = [(pair.swapped() if swap else pair).sentence for pair, swap in zip(pairs, swapped, strict=True)]
    turn = torch.tensor(swapped, device=first.device)[:, None, None, None]
    one, other = torch.where(turn, second, first), torch.where(turn, first, second)
    return inference.reason(model, tokenizer, one, other, sentences)


def _pairs(source: Source, photos: Photos, model: BlipModel) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Numbers of records and the pixels of their two photos, a batch at a time."""
    records = ((i, source[i], image_pair(source[i])) for i in range(len(source)))
    refs = (
        (2 * i + side, pair.images[side], record.where or record.key) for i, record, pair in records for side in (0, 1)
    )
    waiting: dict[int, Tensor] = {}
    for numbers, pixels in photos.read(refs, model):
        waiting |= dict(zip(numbers, pixels, strict=True))
        whole = [n // 2 for n in waiting if n % 2 == 0 and n + 1 in waiting]
        if whole:
            first, second = (torch.stack([waiting.pop(2 * i + side) for i in whole]) for side in (0, 1))
            yield whole, first, second


def _majority(labels: np.ndarray) -> float:
    """What always saying the commoner label reaches."""
    return float(max(labels.mean(), 1 - labels.mean())) if len(labels) else 0.5


def _by_sentence(keys: list[str], right: np.ndarray) -> list[float] | None:
    """Per sentence whether all its rows are right, from identifiers `split-set-pair-sentence`; None without such."""
    if not keys or not all(key.count("-") == 3 for key in keys):
        return None
    groups: dict[tuple[str, str, str], float] = {}
    for key, value in zip(keys, right, strict=True):
        split, number, _, sentence = key.split("-")
        place = (split, number, sentence)
        groups[place] = min(groups.get(place, 1.0), float(value))
    return list(groups.values())
