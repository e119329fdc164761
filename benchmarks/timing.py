"""Interleaved timing of calls, and the limits of the machine.

Processor time of one thread, so that ratios hold on a busy machine: wall-clock time includes interruptions.
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
class Timed:
    """Result of a call that ran in another process, which measured its seconds itself."""

    result: Any
    cpu: float
    wall: float


@dataclass(frozen=True)
class Times:
    """Processor and wall-clock seconds of each round."""

    cpu: list[float]
    wall: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.cpu)


@dataclass(frozen=True)
class Ratio:
    """Ratio of the peer's time to ours, round by round; low, high and median of processor time."""

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
    """Run every call once per round, A B C A B C. The caller does an untimed first round (its check)."""
    times: dict[str, Times] = {name: Times([], []) for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            result = call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            remote = isinstance(result, Timed)
            times[name].cpu.append(result.cpu if remote else cpu)
            times[name].wall.append(result.wall if remote else wall)
    return times


@dataclass(frozen=True)
class Limits:
    """Best of many repetitions: operations per second of a matrix product, bytes read per second."""

    plain: float
    float32: float
    bfloat16: float
    read: float


def limits(repetitions: int = 40) -> Limits:
    """Limits of this machine: 577x768x3072 by `F.linear` and with packed weights, and a sum over 256 MB."""
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
    """Load average of the last minute."""
    return os.getloadavg()[0]
