"""How well match scores follow human ratings of captions: Kendall's tau-c and tau-b, every rating a pair of its own."""

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
from blip.eval.base import Measure, Report, Row, Stats, Tick, measure
from blip.eval.photos import Photos
from blip.metrics.agreement import kendall_tau_b, kendall_tau_c
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.tokenizer import clean_caption

HEADS = ("itm", "itc")


@dataclass(frozen=True, kw_only=True)
class JudgementsEval:
    """Scores rated captions with both heads. A caption that was written for its photo is left out, as is usual."""

    max_length: int = 35
    max_words: int = 30
    texts: str | None = None

    name: ClassVar[str] = "judgements"
    capability: ClassVar[str] = "match"

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
        judged: Sequence[RatedCaption],
        photos: Photos,
        tick: Tick | None = None,
    ) -> list[Row]:
        """`{"key", "text", "itm", "itc"}` for each rated caption whose photo can be read; a photo is looked at once."""
        model.require("itm_head")
        groups: dict[object, list[int]] = {}
        for i, one in enumerate(judged):
            if not one.same_photo:
                groups.setdefault(one.image, []).append(i)
        numbered = list(groups.values())
        refs = ((n, judged[group[0]].image, judged[group[0]].where) for n, group in enumerate(numbered))
        found: dict[int, Row] = {}
        for numbers, pixels in photos.read(refs, model):
            for n, embeds in zip(numbers, model.encode_image(pixels), strict=True):
                texts = [clean_caption(judged[i].text, self.max_words) for i in numbered[n]]
                scores = inference.match(model, tokenizer, embeds[None], texts, max_length=self.max_length)
                for i, itm, itc in zip(numbered[n], scores.itm[0].tolist(), scores.itc[0].tolist(), strict=True):
                    found[i] = {"key": judged[i].key, "text": judged[i].text, "itm": itm, "itc": itc}
            if tick:
                tick(len(found), len(judged))
        return [found[i] for i in sorted(found)]

    def score(self, judged: Sequence[RatedCaption], predictions: Sequence[Row]) -> Report:
        """Correlations of predictions' `itm` and `itc` with the ratings, captions found by `key` and `text`."""
        given = {(p["key"], p["text"]): p for p in predictions}
        rated = [one for one in judged if not one.same_photo and (one.key, one.text) in given]
        rows: list[Row] = []
        for one in rated:
            scores = {head: float(given[one.key, one.text][head]) for head in HEADS}
            rows.append(
                {
                    "task": self.name,
                    "key": one.key,
                    "text": one.text,
                    "scores": {**scores, "rating": float(np.mean(one.ratings))},
                }
            )
        measures: dict[str, Measure] = {}
        for head in HEADS:
            stats = [
                np.array([[row["scores"][head], rating] for rating in one.ratings], dtype=float)
                for row, one in zip(rows, rated, strict=True)
            ]
            measures |= _correlations(head, stats) if stats else {}
        own = sum(one.same_photo for one in judged)
        skipped = {"own captions": f"{own} captions rated with their own photo"} if own else {}
        return Report(
            measures=measures,
            rows=rows,
            predictions=[dict(p) for p in predictions],
            skipped=skipped,
            images=[(one.image,) for one in rated],
        )


def _correlations(head: str, stats: Sequence[Stats]) -> dict[str, Measure]:
    """Tau-c and tau-b over all ratings; a resampling draws captions, each with all its ratings."""
    pairs = np.array([s.ravel() for s in _padded(stats)], dtype=float)
    return {
        f"tau_c_{head}": measure(pairs, lambda rows: kendall_tau_c(*_columns(rows)), unit="tau-c", chance=0.0),
        f"tau_b_{head}": measure(pairs, lambda rows: kendall_tau_b(*_columns(rows)), unit="tau-b", chance=0.0),
    }


def _padded(stats: Sequence[Stats]) -> list[Stats]:
    """All with as many rows as the longest, filled up with NaN."""
    longest = max(len(s) for s in stats)
    return [np.concatenate([s, np.full((longest - len(s), 2), np.nan)]) for s in stats]


def _columns(rows: Stats) -> tuple[Stats, Stats]:
    flat = rows.reshape(-1, 2)
    flat = flat[~np.isnan(flat[:, 0])]
    return flat[:, 0], flat[:, 1]
