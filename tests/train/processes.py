"""Runs of several gloo processes on one machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def spawn(count: int, work: Callable[..., None], *args: Any) -> None:
    """`work(*args)` in each of `count` processes, which find each other as under torchrun.

    The store belongs to this process, as torchrun's does, so the port that the system has chosen stays taken.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(_run_rank, args=(count, store.port, work, args), nprocs=count)


def _run_rank(rank: int, count: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    torch.set_num_threads(1)
    work(*args)
