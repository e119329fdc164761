"""Agreement of match scores with human ratings of captions: Kendall's tau-c and tau-b, each rating as one pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from blip import inference
from blip.data.judgements import RatedCaption, read_judgements
from blip.data.sources import Reading, Spec
from blip.eval.base import Measure, Predictions, Report, Row, Stats, Tick, measure
from blip.eval.photos import Photos
from blip.eval.predictions import RATINGS, Form, match
from blip.metrics.agreement import kendall_tau_b, kendall_tau_c
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.tokenizer import clean_caption

HEADS = ("itm", "itc")


@dataclass(frozen=True, kw_only=True)
class JudgementsEval:
    """Scores rated captions with both heads. Captions written for their own image are left out, as is usual."""

    max_length: int = 35
    max_words: int = 30
    texts: str | None = None

    name: ClassVar[str] = "judgements"
    capability: ClassVar[str] = "match"
    form: ClassVar[Form] = RATINGS
    metric_names: ClassVar[tuple[str, ...]] = tuple(f"tau_{scale}_{head}" for head in HEADS for scale in "cb")

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> list[RatedCaption]:
        paths = [spec] if isinstance(spec, str | PathLike) else spec
        root = reading.root if reading.root is None or isinstance(reading.root, str) else reading.root[0]
        texts, root_path = (None if name is None else Path(name) for name in (self.texts, root))
        return [row for path in paths for row in read_judgements(Path(path), texts, root_path)]

    @torch.inference_mode()
    def predict(
        self,
        model: BlipModel,
        tokenizer: Tokenizer,
        captions: Sequence[RatedCaption],
        photos: Photos,
        tick: Tick | None = None,
    ) -> list[Row]:
        """Return `{"key", "text", "itm", "itc"}` for each caption whose image can be read; images are encoded once."""
        model.require("itm_head")
        groups: dict[object, list[int]] = {}
        for i, caption in enumerate(captions):
            if not caption.same_photo:
                groups.setdefault(caption.image, []).append(i)
        numbered = list(groups.values())
        refs = ((n, captions[group[0]].image, captions[group[0]].where) for n, group in enumerate(numbered))
        rows: dict[int, Row] = {}
        for numbers, pixels in photos.read(refs, model):
            for n, embeds in zip(numbers, model.encode_image(pixels), strict=True):
                texts = [clean_caption(captions[i].text, self.max_words) for i in numbered[n]]
                scores = inference.match(model, tokenizer, embeds[None], texts, max_length=self.max_length)
                for i, itm, itc in zip(numbered[n], scores.itm[0].tolist(), scores.itc[0].tolist(), strict=True):
                    rows[i] = {"key": captions[i].key, "text": captions[i].text, "itm": itm, "itc": itc}
            if tick:
                tick(len(rows), len(captions))
        return [rows[i] for i in sorted(rows)]

    def score(
        self, captions: Sequence[RatedCaption], predictions: Predictions, *, allow_missing: bool = False
    ) -> Report:
        """Correlations of the predictions' `itm` and `itc` with the ratings, joined on `key` and `text`."""
        left_out = {_name(caption.key, caption.text) for caption in captions if caption.same_photo}
        others = [caption for caption in captions if not caption.same_photo]
        given = [p for p in self.form.parse(predictions) if _name(p["key"], p["text"]) not in left_out]
        ids = [_name(caption.key, caption.text) for caption in others]
        matched = match(ids, given, lambda p: _name(p["key"], p["text"]), allow_missing=allow_missing)
        chosen = [(name, caption) for name, caption in zip(ids, others, strict=True) if name in matched.rows]
        rated = [caption for _, caption in chosen]
        heads = [head for head in HEADS if all(matched.rows[name].get(head) is not None for name, _ in chosen)]
        rows: list[Row] = []
        for name, caption in chosen:
            scores = {head: matched.rows[name][head] for head in heads}
            rows.append(
                {
                    "task": self.name,
                    "key": caption.key,
                    "text": caption.text,
                    "scores": {**scores, "rating": float(np.mean(caption.ratings))},
                }
            )
        measures: dict[str, Measure] = {}
        for head in heads:
            stats = [
                np.array([[row["scores"][head], rating] for rating in caption.ratings], dtype=float)
                for row, caption in zip(rows, rated, strict=True)
            ]
            measures |= _correlations(head, stats)
        skipped = {f"tau of {head}": "not all predictions have this score" for head in HEADS if head not in heads}
        count = sum(caption.same_photo for caption in captions)
        skipped |= {"own captions": f"{count} with their own image"} if count else {}
        return Report(
            measures=measures,
            rows=rows,
            predictions=[matched.rows[name] for name, _ in chosen],
            skipped=skipped,
            images=[(caption.image,) for caption in rated],
            coverage=matched.coverage,
        )


def _name(key: object, text: str) -> str:
    """Id of a rated caption."""
    return f"{key}: {text}"


def _correlations(head: str, stats: Sequence[Stats]) -> dict[str, Measure]:
    """Tau-c and tau-b over all ratings; bootstrap draws captions, each with all its ratings."""
    pairs = np.array([s.ravel() for s in _padded(stats)], dtype=float)
    return {
        f"tau_c_{head}": measure(pairs, lambda rows: kendall_tau_c(*_columns(rows)), unit="tau-c", chance=0.0),
        f"tau_b_{head}": measure(pairs, lambda rows: kendall_tau_b(*_columns(rows)), unit="tau-b", chance=0.0),
    }


def _padded(stats: Sequence[Stats]) -> list[Stats]:
    """Pad all with NaN rows to the length of the longest."""
    longest = max(len(s) for s in stats)
    return [np.concatenate([s, np.full((longest - len(s), 2), np.nan)]) for s in stats]


def _columns(rows: Stats) -> tuple[Stats, Stats]:
    flat = rows.reshape(-1, 2)
    flat = flat[~np.isnan(flat[:, 0])]
    return flat[:, 0], flat[:, 1]
