"""Processor time of the parts of captioning, measured inside whole runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.cases import BEAM, DTYPES
from benchmarks.peers import pair
from blip import inference
from blip.model.blip import BlipModel
from blip.model.stepper import TextStepper
from blip.model.text import TextTransformer

# part -> its methods; the time of nested parts is subtracted from the outer one
PARTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "vision": (BlipModel, ("encode_image",)),
    "keys and values": (TextTransformer, ("cross_keys_values",)),
    "prompt": (TextStepper, ("start",)),
    "steps": (TextStepper, ("step",)),
    "head": (TextTransformer, ("logits",)),
    "cache": (TextStepper, ("expand", "reorder", "keep")),
}


class Stopwatch:
    """Seconds by part; only the innermost running part is timed."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*PARTS, "search"), 0.0)
        self.running, self.since = ["search"], time.process_time()

    def turn(self) -> None:
        now = time.process_time()
        self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self.running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.running.pop()

        return timed


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    with ExitStack() as stack:
        watch = Stopwatch()
        for part, (owner, names) in PARTS.items():
            for name in names:
                stack.enter_context(patch.object(owner, name, watch.wrap(part, getattr(owner, name))))
        watch.since = time.process_time()
        yield watch
        watch.turn()


def parts(name: str, count: int, rounds: int = 3) -> dict[str, float]:
    """Median milliseconds of processor time of each part of `count` captions, beam 3, in precision `name`."""
    p = pair("caption", 384, DTYPES[name])
    pixels, runs = p.photos(count, DTYPES[name]), []
    for _ in range(rounds + 1):
        with torch.inference_mode(), stopwatch() as watch:
            inference.caption(p.ours, p.tokenizer, p.ours.encode_image(pixels), BEAM)
        runs.append(watch.seconds)
    return {part: 1e3 * statistics.median(run[part] for run in runs[1:]) for part in runs[0]}
