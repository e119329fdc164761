"""Reading shards front to back before their samples are taken in random order, so that the disk reads in sequence.

The bytes are dropped: the operating system keeps them in memory, from where the samples are then read.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from blip.data.indexed_source import ByteRange, IndexedSource
from blip.io.byte_sources import read_at

logger = logging.getLogger(__name__)
_CHUNK = 1 << 20  # bytes
_WINDOWS = 2  # in memory at the same time: the one in use, and the one that is read
_SHARE = 0.5  # of the free memory that they may take


def read_ahead(source: IndexedSource, window: int) -> Callable[[int, int], None] | None:
    """Return a function that reads a shard in the background, None if the memory is too small for its windows.

    One process of a machine does so for all.
    """
    sizes = [index.bytes for index in source.indexes if index.is_shard]
    if not sizes or os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    needed = _WINDOWS * window * sum(sizes) / len([size for index in source.indexes for size in index.shards])
    free = free_memory()
    if needed > _SHARE * free:
        logger.warning(
            "%d windows of %d shards need %.1f GB, more than half of the %.1f GB of free memory: samples are read one "
            "at a time; a smaller shuffle_window lets the disk read in sequence",
            _WINDOWS,
            window,
            needed / 1e9,
            free / 1e9,
        )
        return None
    return _Reader(source)


class _Reader:
    """Reads ranges in a thread, in the order in which they are given."""

    def __init__(self, source: IndexedSource) -> None:
        self._source = source
        self._ranges: SimpleQueue[ByteRange] = SimpleQueue()
        self._thread: Thread | None = None

    def __call__(self, first: int, count: int) -> None:
        part = self._source.byte_range(first, count)
        if part is None:
            return
        if self._thread is None:
            self._thread = Thread(target=self._run, name="read-ahead", daemon=True)
            self._thread.start()
        self._ranges.put(part)

    def _run(self) -> None:
        while True:
            part = self._ranges.get()
            with suppress(OSError):  # reported when a sample is read
                for start in range(part.start, part.end, _CHUNK):
                    read_at(part.file, start, min(_CHUNK, part.end - start))


def free_memory() -> int:
    """Return the bytes of memory that are free or can be freed, also within the limit of a container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [8 << 30]
    with suppress(OSError):
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        limits += [int(match[1]) * 1024] if match else []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits)
