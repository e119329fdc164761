"""Batches that the memory of a device does not suffice for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from blip_lite.errors import EnvironmentProblem

T = TypeVar("T")
R = TypeVar("R")


def retry_halved(function: Callable[[Sequence[T]], Sequence[R]], batch: Sequence[T]) -> list[R]:
    """Return the results of a batch, of halved ones as long as the device's memory does not suffice."""
    if not batch:
        return []
    torch = sys.modules.get("torch")  # not imported if an exported model runs
    if torch is None:
        return list(function(batch))
    try:
        return list(function(batch))
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise EnvironmentProblem("out of memory with one image; use --device cpu or --image-size") from error
    torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    return retry_halved(function, batch[:half]) + retry_halved(function, batch[half:])
