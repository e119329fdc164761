"""Device, precision, seeds, CPU threads and memory."""

from __future__ import annotations

import ctypes
import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal

import numpy as np
import torch

from blip_lite.errors import EnvironmentProblem, UsageError

DType = Literal["auto", "fp32", "bf16", "fp16", "int8"]
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The torch device for auto, cpu, cuda, cuda:N or mps. `auto` is CUDA if available, else the CPU (never MPS).

    Raises UsageError for another name, EnvironmentProblem for a device that this machine does not have.
    """
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?|mps(:0)?", name):
        raise UsageError(f"device '{name}'; must be auto, cpu, cuda, cuda:N or mps")
    device_type = name.split(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device_type]
    if not available:
        raise EnvironmentProblem(f"device '{name}' is not available; use --device cpu, or run 'blip doctor'")
    result = torch.device(name)
    if device_type == "cuda" and (result.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(f"device '{name}' is not available; CUDA devices here: {torch.cuda.device_count()}")
    return result


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The torch dtype for auto, fp32, bf16, fp16 or int8, which is for CPUs only.

    `auto` is float32 on CPU and MPS; on CUDA it is bfloat16 if supported, else float16.
    """
    if dtype in ("int8", torch.int8) and device.type != "cpu":
        raise UsageError(f"dtype 'int8' on device '{device}'; must be fp32, bf16 or fp16 there")
    if dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UsageError(f"dtype '{dtype}'; must be auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def autocast(device: torch.device, dtype: torch.dtype, *, cached: bool = True) -> AbstractContextManager[Any]:
    """Mixed precision for training; disabled for float32. cached: cast each weight once, however often it is used."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=cached)


def upload(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """x on the device. To a GPU it is copied from pinned memory, so that neither side waits for the other."""
    if device.type != "cuda":
        return x.to(device)
    if x.device.type == "cpu" and not x.is_pinned():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and random. Training passes seed + rank, as the original does."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def mixed_bits(*numbers: int) -> int:
    """63-bit hash of integers (splitmix64), for seeds: torch's CPU generator uses only the lower 32 bits of a seed."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


_MASK = (1 << 64) - 1


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with `count` CPU threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tune_glibc_malloc() -> None:
    """Make glibc keep freed memory; no effect with another C library.

    A training step allocates and frees gigabytes; returning them to the system costs a quarter of the step in page
    faults.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def peak_memory_mb(device: torch.device) -> int:
    """Peak memory in MB: allocated on a CUDA device, else resident of this process; 0 on Windows with a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    if sys.platform == "win32":
        return 0
    import resource  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # bytes or KB
