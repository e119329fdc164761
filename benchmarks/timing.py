"""Calls timed in turn, and what the machine can do at best.

Processor time of one thread, so that ratios hold on a machine with other work: by the clock on the wall whoever happens
to be interrupted loses.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Call = Callable[[], Any]


@dataclass(frozen=True)
class Times:
    """Seconds of each round, of processor time and by the clock on the wall."""

    cpu: list[float]
    wall: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.cpu)


@dataclass(frozen=True)
class Ratio:
    """How many times longer the peer takes, round by round; low, high and median by processor time."""

    median: float
    low: float
    high: float
    wall: float

    @classmethod
    def of(cls, peer: Times, ours: Times) -> Ratio:
        rounds = [a / b for a, b in zip(peer.cpu, ours.cpu, strict=True)]
        wall = [a / b for a, b in zip(peer.wall, ours.wall, strict=True)]
        return cls(statistics.median(rounds), min(rounds), max(rounds), statistics.median(wall))


def interleave(calls: Mapping[str, Call], rounds: int) -> dict[str, Times]:
    """Every call once a round, A B C A B C. The first, untimed round of each is left to the caller (its check)."""
    times: dict[str, Times] = {name: Times([], []) for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


@dataclass(frozen=True)
class Limits:
    """The best of many repetitions: operations a second of a matrix product, bytes a second of reading."""

    plain: float
    float32: float
    bfloat16: float
    read: float


def limits(repetitions: int = 40) -> Limits:
    """The machine's own: 577x768x3072 as `F.linear` has it and on packed weights, and a sum over 256 MB."""
    from blip.model import mkldnn_linear

    x, weight, bias = torch.randn(577, 768), torch.randn(3072, 768), torch.zeros(3072)
    x2, weight2, bias2 = (t.bfloat16() for t in (x, weight, bias))
    operations, block = 2.0 * 577 * 768 * 3072, torch.zeros(64 << 20)
    with torch.inference_mode():
        single, double = mkldnn_linear.PackedWeight(), mkldnn_linear.PackedWeight()
        return Limits(
            plain=operations / _best(lambda: F.linear(x, weight, bias), repetitions),
            float32=operations / _best(lambda: mkldnn_linear.linear(x, weight, bias, single), repetitions),
            bfloat16=operations / _best(lambda: mkldnn_linear.linear(x2, weight2, bias2, double), repetitions),
            read=4.0 * block.numel() / _best(block.sum, 10),
        )


def _best(call: Call, repetitions: int) -> float:
    call()
    return min(interleave({"": call}, repetitions)[""].cpu)


def load() -> float:
    """How many processes wanted a core in the last minute."""
    return os.getloadavg()[0]
