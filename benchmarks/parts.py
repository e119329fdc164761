"""Processor time of the parts of a run, measured inside whole runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks import cases, training
from benchmarks.cases import BEAM, DTYPES
from benchmarks.peers import Pair, pair
from benchmarks.stopwatch import Parts, stopwatch
from benchmarks.timing import Call
from blip import inference
from blip.model import ragged
from blip.model.blip import BlipModel
from blip.model.layers import Attention
from blip.model.mkldnn_linear import Linear
from blip.model.stepper import TextStepper
from blip.model.text import LMHead, SelfCache, TextTransformer
from blip_lite.config import Family

PARTS: Parts = {
    "vision": [(BlipModel, "encode_image")],
    "keys and values": [(TextTransformer, "cross_keys_values")],
    "prompt": [(TextStepper, "start")],
    "steps": [(TextStepper, "step")],
    "head": [(TextTransformer, "logits")],
    "cache": [(TextStepper, name) for name in ("expand", "reorder", "keep")],
}
# Kinds of operations; the rest is additions, copies, search and Python.
KINDS: Parts = {
    "linear layers": [(Linear, "forward")],
    "attention": [(Attention, "attend"), (ragged, "_within_texts")],
    "LayerNorm": [(nn.LayerNorm, "forward")],
    "patches": [(nn.Conv2d, "forward")],
    "head": [(LMHead, "forward")],
    "cache": [(SelfCache, name) for name in ("append", "select", "repeat")],
}


def _captions(p: Pair, pixels: Tensor) -> Call:
    return lambda: inference.caption(p.ours, p.tokenizer, p.ours.encode_image(pixels), BEAM)


WORKS: dict[str, tuple[Family, int, int, Callable[[Pair, Tensor], Call]]] = {
    "caption 384, 1 photo": ("caption", 384, 1, _captions),
    "caption 384, 8 photos": ("caption", 384, 8, _captions),
    "ITM 384, 1 photo x 128 texts": ("retrieval", 384, 1, lambda p, x: cases.ours_match(p, x, cases.match_texts())),
    "VQA 480, 1 photo": ("vqa", 480, 1, cases.ours_answer),
    "image embedding 384, 8 photos": ("retrieval", 384, 8, cases.ours_vectors),
}


def tables() -> Iterator[tuple[str, str, dict[str, float]]]:
    """Median milliseconds of processor time: (table, its row, values by column)."""
    for work, (family, size, count, build) in WORKS.items():
        for name, dtype in DTYPES.items():
            p = pair(family, size, dtype)
            call = build(p, p.photos(count, dtype))
            if family == "caption":
                yield "parts of a caption", f"{work}, {name}", _milliseconds(call, PARTS, "search")
            yield "kinds of operations", f"{work}, {name}", _milliseconds(call, KINDS, "rest")
    for name in DTYPES:
        yield "a training step", f"224, {training.PHOTOS} photos, {name}", training.parts(name)


def _milliseconds(call: Call, parts: Parts, rest: str, rounds: int = 3) -> dict[str, float]:
    runs = []
    for _ in range(rounds + 1):
        with torch.inference_mode(), stopwatch(parts, rest) as seconds:
            call()
        runs.append(seconds)
    return {part: 1e3 * statistics.median(run[part] for run in runs[1:]) for part in runs[0]}
