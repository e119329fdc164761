"""The device: its name, its measured rates, and those that its vendor states."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.gpu.session import Session

# dense bfloat16 operations and bytes per second, from the data sheets
VENDOR = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12), "L40S": (362e12, 0.864e12)}


@dataclass(frozen=True)
class Rates:
    """Operations of a matrix product and copied bytes (read and written) per second."""

    operations: float
    bandwidth: float


def vendor_rates(name: str) -> Rates | None:
    return next((Rates(*rates) for key, rates in VENDOR.items() if key in name), None)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def measure(session: Session) -> Rates:
    """Best of several matrix products on random data, in the data type of the rates, and of copies."""
    size, numbers = (8192, 1 << 30) if session.is_cuda else (512, 1 << 22)
    a, b = (torch.randn(size, size, device=session.device, dtype=session.dtype) for _ in "ab")
    block = torch.ones(numbers, dtype=torch.uint8, device=session.device)
    target = torch.empty_like(block)
    product = seconds_of(lambda: a @ b, session, rounds=20)
    copy = seconds_of(lambda: target.copy_(block), session, rounds=10)
    return Rates(2.0 * size**3 / product, 2.0 * numbers / copy)


def seconds_of(call: Callable[[], object], session: Session, rounds: int) -> float:
    """Median seconds of a call, after three that do not count."""
    times = []
    for _ in range(3 + rounds):
        session.wait()
        start = time.perf_counter()
        call()
        session.wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])
