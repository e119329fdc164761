"""Where we run: device, precision, threads, seeds, and the ranks of a distributed run."""

from __future__ import annotations

import ctypes
import os
import random
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from blip.errors import EnvironmentProblem, UsageError

DType = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; MPS only by name. EnvironmentProblem where it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device '{name}'; must be auto, cpu, cuda, cuda:N or mps")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not present:
        raise EnvironmentProblem(f"device '{name}' is not there; use --device cpu, or 'blip doctor' to see what is")
    device = torch.device(name)
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(f"device '{name}' is not there; this machine has {torch.cuda.device_count()}")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: float32 on CPU and MPS; on CUDA bfloat16 where supported, else float16."""
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name not in DTYPES:
        raise UsageError(f"dtype '{name}'; must be auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Mixed precision in training; float32 means none."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def seed_everything(seed: int) -> None:
    """Seeds torch, numpy and random; training seeds seed + rank, as the original."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def mixed_bits(*numbers: int) -> int:
    """63 well mixed bits of some numbers (splitmix64). Torch's CPU generator uses only the lower 32 bits of a seed."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


_MASK = (1 << 64) - 1


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def is_launched() -> bool:
    """Whether a launcher (torchrun, Slurm through it) has set the variables of a distributed run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def distributed(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes of a launcher: nccl on CUDA (each process on its own device), else gloo. Yields the device.

    Does nothing without a launcher, or where the group is there already.
    """
    if not is_launched() or is_distributed():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # the others wait while the first process evaluates, which may take long
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=6))
    try:
        yield device
    finally:
        dist.destroy_process_group()


@dataclass
class Stop:
    """`reason` is "" until a signal came: then "terminated" or "interrupted"."""

    reason: str = ""


@contextmanager
def stopping() -> Iterator[Stop]:
    """The first SIGTERM or Ctrl-C asks the work inside to stop at its next end; the next one does what it always does.

    In another thread than the main one signals are left to whoever has that.
    """
    stop = Stop()
    before: dict[signal.Signals, Any] = {}
    reasons = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.reason = reasons[signal.Signals(number)]
        signal.signal(number, before[signal.Signals(number)])

    with suppress(ValueError):  # not in the main thread
        for number in reasons:
            before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` threads of the CPU inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def hold_memory() -> None:
    """Asks glibc to keep freed memory. A training step frees and takes gigabytes; giving them back to the system each
    time costs a quarter of the step in page faults. Elsewhere than on glibc this does nothing.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, without gradient; the tensor itself on one process.

    Source: models/blip_retrieval.py concat_all_gather.
    """
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gather_with_grad(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order; gradients of all ranks flow back to the rows' owner.

    Source: models/blip_retrieval.py GatherLayer (backward all-reduces the stacked gradients).
    """
    return x if world_size() == 1 else _Gather.apply(x)  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return gather(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]
