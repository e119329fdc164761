"""Process groups and collectives of a distributed run (torch.distributed); on one process everything is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from blip_lite.errors import BlipError, EnvironmentProblem

# Timeout of a collective. gloo notices a dead process at once; with nccl the launcher does.
TIMEOUT = timedelta(minutes=30)
CONNECTION_ERRORS = (
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out",
)


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def is_launched() -> bool:
    """Whether a launcher (torchrun, Slurm through it) has set the environment of a distributed run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the launcher's process group and yield this process's device: nccl on CUDA (one device each), else gloo.

    Does nothing without a launcher or if the group exists already.
    """
    if is_distributed():
        _barrier_group(cast(dist.ProcessGroup, dist.group.WORLD))
    if not is_launched() or is_distributed():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    _barrier_group(cast(dist.ProcessGroup, dist.group.WORLD))  # created now, while all processes are known to be alive
    yield device
    dist.destroy_process_group()  # skipped after an error: it would wait for processes that wait for this one


@contextmanager
def report_lost_peers() -> Iterator[None]:
    """Raise EnvironmentProblem if another process is lost, instead of the backend's own error."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or isinstance(error, BlipError) or not _is_connection_error(error):
            raise
        raise EnvironmentProblem(
            f"process {rank()} of {world_size()}: another process has ended or hangs (see its output); "
            "run the same command again to resume from the last checkpoint"
        ) from error


def _is_connection_error(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(text in str(error) for text in CONNECTION_ERRORS)


def wait_for_all() -> None:
    """Barrier with a timeout of a day, so that rank 0 may evaluate or write for long."""
    if world_size() > 1:
        dist.barrier(group=_barrier_group(cast(dist.ProcessGroup, dist.group.WORLD)))


@cache
def _barrier_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(days=1)))


def local_shard(x: Tensor) -> Tensor:
    """This process's shard of a DTensor, sharing its memory; any other tensor is returned unchanged."""
    to_local = getattr(x, "to_local", None)  # isinstance would need an import that takes half a second
    return x if to_local is None else cast(Tensor, to_local())


def is_sharded(x: Tensor) -> bool:
    """Whether each process holds only a part of the tensor (a DTensor)."""
    return hasattr(x, "to_local")


def broadcast_from_rank0(x: Tensor) -> Tensor:
    """The values of rank 0; x has the same shape on all processes."""
    if world_size() > 1:
        x = x.clone()
        dist.broadcast(x, src=0)
    return x


def all_reduce_max(value: int) -> int:
    """Maximum over all processes."""
    if world_size() == 1:
        return value
    result = torch.tensor([value], device=_communication_device())
    dist.all_reduce(result, op=dist.ReduceOp.MAX)
    return int(result)


def all_reduce_mean(values: Sequence[float]) -> list[float]:
    """Mean of each value over all processes."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_communication_device())
    dist.all_reduce(total)
    return [float(v) for v in total / world_size()]


def scale_to_global_mean(mean: Tensor, count: int) -> Tensor:
    """Scale a mean of `count` local values so that its average over processes is the mean of all values."""
    if world_size() == 1:
        return mean
    total = torch.tensor([float(count)], device=mean.device)
    dist.all_reduce(total)
    return mean * (count * world_size() / total[0])


def _communication_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, without gradient.

    Source: models/blip_retrieval.py concat_all_gather.
    """
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gather_with_grad(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order; gradients of all ranks flow back to the rank that owns the rows.

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
