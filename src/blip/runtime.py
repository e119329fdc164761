"""Where we run: device, precision, threads, seeds, and the ranks of a distributed run."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from blip_lite.errors import BlipError, EnvironmentProblem, UsageError

DType = Literal["auto", "fp32", "bf16", "fp16"]
# How long processes wait for each other in a step. A dead one is noticed at once with gloo, with nccl by the launcher.
PATIENCE = timedelta(minutes=30)
LOSSES = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
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


def autocast(device: torch.device, dtype: torch.dtype, *, cached: bool = True) -> AbstractContextManager[Any]:
    """Mixed precision in training; float32 means none. cached: a weight is cast once, however often it is used."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=cached)


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
    if is_distributed():
        _waiting_group(cast(dist.ProcessGroup, dist.group.WORLD))
    if not is_launched() or is_distributed():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    _waiting_group(cast(dist.ProcessGroup, dist.group.WORLD))  # while all are there
    yield device
    dist.destroy_process_group()  # not after an error: it would wait for the others, who wait for this process


@contextmanager
def peers() -> Iterator[None]:
    """Turns the loss of another process, which every exchange with it reports in its own way, into one line."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or isinstance(error, BlipError) or not _is_loss(error):
            raise
        raise EnvironmentProblem(
            f"process {rank()} of {world_size()}: another process has ended or hangs (see what it says); "
            "the same command goes on from the last checkpoint"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in LOSSES)


def wait_for_all() -> None:
    """Returns when all processes are here, however long the first one evaluates or writes."""
    if world_size() > 1:
        dist.barrier(group=_waiting_group(cast(dist.ProcessGroup, dist.group.WORLD)))


@cache
def _waiting_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(days=1)))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def local(x: Tensor) -> Tensor:
    """This process's part of a tensor that is cut over the processes, in the same memory; else the tensor itself."""
    part = getattr(x, "to_local", None)  # of a DTensor; importing that class takes half a second
    return x if part is None else cast(Tensor, part())


def is_cut(x: Tensor) -> bool:
    """Whether each process holds only a part of the tensor."""
    return hasattr(x, "to_local")


def from_first(x: Tensor) -> Tensor:
    """What the first process has in `x`, of the same shape on all."""
    if world_size() > 1:
        x = x.clone()
        dist.broadcast(x, src=0)
    return x


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    if world_size() == 1:
        return number
    found = torch.tensor([number], device=_device_of_group())
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def share_of_mean(mean: Tensor, count: int) -> Tensor:
    """A mean of this process's `count` values, scaled so that its mean over all processes is that of all values."""
    if world_size() == 1:
        return mean
    total = torch.tensor([float(count)], device=mean.device)
    dist.all_reduce(total)
    return mean * (count * world_size() / total[0])


def mean_over_processes(values: Sequence[float]) -> list[float]:
    """Each value's mean over all processes."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_device_of_group())
    dist.all_reduce(total)
    return [float(v) for v in total / world_size()]


def _device_of_group() -> torch.device:
    """Where tensors must lie to be exchanged."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


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
