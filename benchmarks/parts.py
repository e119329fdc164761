"""Processor time of the parts of captioning, measured inside whole runs."""

from __future__ import annotations

import statistics

import torch

from benchmarks.cases import BEAM, DTYPES
from benchmarks.peers import pair
from benchmarks.stopwatch import Parts, stopwatch
from blip import inference
from blip.model.blip import BlipModel
from blip.model.stepper import TextStepper
from blip.model.text import TextTransformer

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


def parts(name: str, count: int, rounds: int = 3) -> dict[str, float]:
    """Median milliseconds of processor time of each part of `count` captions, beam 3, in precision `name`."""
    p = pair("caption", 384, DTYPES[name])
    pixels, runs = p.photos(count, DTYPES[name]), []
    for _ in range(rounds + 1):
        with torch.inference_mode(), stopwatch(PARTS, "search") as seconds:
            inference.caption(p.ours, p.tokenizer, p.ours.encode_image(pixels), BEAM)
        runs.append(seconds)
    return {part: 1e3 * statistics.median(run[part] for run in runs[1:]) for part in runs[0]}
