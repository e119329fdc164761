"""Matching on photos with true captions: changed captions (chance 0.5), and calibration of the match probability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from blip.checkpoint.load import Loaded
from blip.data.sources import Source
from blip.eval.photos import Photos
from blip.inference import match
from blip_lite.tokenizer import clean_caption
from experiments.tiny.calibration import auc, expected_calibration_error, pair_accuracy, reliability
from experiments.tiny.changed_captions import ORDER, change_caption, word_groups

KINDS = (*word_groups(), ORDER)
TRUE, OTHER = "true", "other"  # kinds of a caption: of the photo, of another photo drawn at random


@dataclass(frozen=True)
class Caption:
    """A caption to match with a photo. kind: "true", "other", or that of its change. of: index of the true caption."""

    kind: str
    text: str
    of: int


@dataclass(frozen=True)
class Scored:
    """Scores of the captions of all photos, one entry per caption: the photo, match probability and cosine."""

    photos: Sequence[int]
    captions: Sequence[Caption]
    itm: Sequence[float]
    itc: Sequence[float]


def build_captions(texts: Sequence[Sequence[str]], seed: int = 0) -> list[list[Caption]]:
    """Return the captions of each photo: the true ones, and for each one of another photo and one per kind of change.

    texts: the cleaned true captions of each photo. Kinds that do not apply to a caption are left out.
    """
    captions = []
    for photo, true_texts in enumerate(texts):
        rows = [Caption(TRUE, text, i) for i, text in enumerate(true_texts)]
        for i, text in enumerate(true_texts):
            rng = Random(f"{seed}:{photo}:{i}")
            others = [*true_texts[:i], *true_texts[i + 1 :]]
            other = rng.choice([n for n in range(len(texts)) if n != photo and texts[n]])
            rows.append(Caption(OTHER, rng.choice(list(texts[other])), i))
            for kind in KINDS:
                changed = change_caption(text, rng, kinds=[kind], others=others)
                if changed is not None:
                    rows.append(Caption(kind, changed.text, i))
        captions.append(rows)
    return captions


@torch.inference_mode()
def score_captions(loaded: Loaded, source: Source, limit: int | None = None, seed: int = 0) -> Scored:
    """Match photos with their captions of `build_captions`; each photo is encoded once."""
    chosen = [i for i in range(len(source)) if source[i].texts][:limit]
    captions = build_captions([[clean_caption(text) for text in source[i].texts] for i in chosen], seed)
    photos, rows, itm, itc = list[int](), list[Caption](), list[float](), list[float]()
    for indices, pixels in Photos().batches(source, loaded.model, chosen):
        for index, embeds in zip(indices, loaded.model.encode_image(pixels), strict=True):
            candidates = captions[chosen.index(index)]
            scores = match(loaded.model, loaded.tokenizer, embeds[None], [caption.text for caption in candidates])
            photos += [index] * len(candidates)
            rows += candidates
            itm += scores.itm[0].tolist()
            itc += scores.itc[0].tolist()
    return Scored(photos, rows, itm, itc)


def changed_accuracy(scored: Scored) -> dict[str, Any]:
    """Accuracy of ITM and cosine on pairs of a true caption and a changed one, by kind, over all pairs and kinds."""
    true = {(p, c.of): i for i, (p, c) in enumerate(zip(scored.photos, scored.captions, strict=True)) if c.kind == TRUE}
    pairs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, (photo, caption) in enumerate(zip(scored.photos, scored.captions, strict=True)):
        if caption.kind in KINDS:
            pairs[caption.kind].append((true[photo, caption.of], i))
    results: dict[str, Any] = {}
    for name in (*KINDS, "all"):
        chosen = pairs[name] if name != "all" else [pair for kind in KINDS for pair in pairs[kind]]
        if chosen:
            results[name] = {
                "pairs": len(chosen),
                **{
                    head: pair_accuracy([values[a] for a, _ in chosen], [values[b] for _, b in chosen])
                    for head, values in (("itm", scored.itm), ("itc", scored.itc))
                },
            }
    kinds = [results[kind] for kind in KINDS if kind in results]
    if kinds:
        results["mean_of_kinds"] = {h: sum(row[h] for row in kinds) / len(kinds) for h in ("itm", "itc")}
    return results


def calibration(scored: Scored) -> dict[str, Any]:
    """Calibration of the match probability at 1:1: true captions against those of other photos, and changed ones.

    A true caption is paired with one of its changes, in turn of all kinds.
    """
    groups = {TRUE: list[float](), OTHER: list[float]()}
    changed: dict[tuple[int, int], list[float]] = defaultdict(list)
    for photo, caption, itm in zip(scored.photos, scored.captions, scored.itm, strict=True):
        if caption.kind in groups:
            groups[caption.kind].append(itm)
        else:
            changed[photo, caption.of].append(itm)
    true = {
        (photo, caption.of): itm
        for photo, caption, itm in zip(scored.photos, scored.captions, scored.itm, strict=True)
        if caption.kind == TRUE
    }
    one_each = {name: values[n % len(values)] for n, (name, values) in enumerate(changed.items())}
    return {
        "true_against_other": _calibration(groups[TRUE], groups[OTHER]),
        "true_against_changed": _calibration([true[name] for name in one_each], list(one_each.values())),
    }


def _calibration(true: Sequence[float], false: Sequence[float]) -> dict[str, Any]:
    probabilities, labels = [*true, *false], [True] * len(true) + [False] * len(false)
    if not true or not false:
        return {"pairs": 0}
    return {
        "pairs": len(true),
        "ece": expected_calibration_error(probabilities, labels),
        "auc": auc(true, false),
        "accuracy_at_0.5": (sum(p >= 0.5 for p in true) + sum(p < 0.5 for p in false)) / len(probabilities),
        "reliability": reliability(probabilities, labels),
    }
