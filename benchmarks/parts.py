"""Processor time of the parts of a run, measured inside whole runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import cases
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
PROFILED = {
    "f32, 1 photo": ("f32", 1),
    "f32, 8 photos": ("f32", 8),
    "bf16, 1 photo": ("bf16", 1),
    "bf16, 8 photos": ("bf16", 8),
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


def parts(name: str, count: int, rounds: int = 3) -> dict[str, float]:
    """Median milliseconds of processor time of each part of `count` captions, beam 3, in precision `name`."""
    return _milliseconds(_work(f"caption 384, {count} photo{'s' * (count > 1)}", name), PARTS, "search", rounds)


def kinds(work: str, name: str, rounds: int = 3) -> dict[str, float]:
    """Median milliseconds of processor time of each kind of operation in one of `WORKS`, in precision `name`."""
    return _milliseconds(_work(work, name), KINDS, "rest", rounds)


def _work(work: str, name: str) -> Call:
    family, size, count, build = WORKS[work]
    p = pair(family, size, DTYPES[name])
    return build(p, p.photos(count, DTYPES[name]))


def _milliseconds(call: Call, parts: Parts, rest: str, rounds: int) -> dict[str, float]:
    runs = []
    for _ in range(rounds + 1):
        with torch.inference_mode(), stopwatch(parts, rest) as seconds:
            call()
        runs.append(seconds)
    return {part: 1e3 * statistics.median(run[part] for run in runs[1:]) for part in runs[0]}
