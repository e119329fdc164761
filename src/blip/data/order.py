"""Orders in which training takes its rows: any position of any epoch follows from the seed.

`Shuffled` permutes all rows; `Windowed` permutes shards, then the rows of a few shards at a time, so that reads stay
near each other and nothing as long as the data is held in memory; `Mixed` draws from several sources by weight.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import gcd
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blip.runtime import mixed_bits
from blip_lite.errors import ConfigError

Rows = NDArray[np.int64]
OnShard = Callable[[int, int], None]  # receives the first row and the number of rows
_BLOCK = 4096  # positions of a mixture that are shuffled together, about
_MAX_WEIGHTS = 10_000  # their sum


class Order(Protocol):
    """An order of rows for each epoch."""

    def take(self, epoch: int, first: int, last: int) -> tuple[Rows, Rows]:
        """Return the rows at positions `first` to `last` of an epoch, and how often their source was gone through."""
        ...

    def __str__(self) -> str:
        """Everything but the seed that decides the order, to compare runs."""
        ...


class Shuffled:
    """All rows of an epoch in random order. length: number of rows by epoch."""

    def __init__(self, length: Callable[[int], int], seed: int, *, shuffle: bool = True) -> None:
        self._length, self._seed, self._shuffle = length, seed, shuffle
        self._order: tuple[int, Rows] | None = None

    def __str__(self) -> str:
        return "all rows"

    def take(self, epoch: int, first: int, last: int) -> tuple[Rows, Rows]:
        if self._order is None or self._order[0] != epoch:
            order = np.arange(self._length(epoch))
            if self._shuffle:
                _generator(self._seed, epoch, -1).shuffle(order)
            self._order = epoch, order
        rows = self._order[1][first:last]
        return rows, np.full_like(rows, epoch)


class Windowed:
    """Shards in random order, and within each `window` of them all rows in random order.

    shards: numbers of consecutive rows [S] by epoch. on_shard is called for each shard before its rows are taken:
    those of a window while the one before is in use.
    """

    def __init__(self, shards: Callable[[int], Rows], window: int, seed: int, on_shard: OnShard | None = None) -> None:
        self._shards, self._window, self._seed, self._on_shard = shards, window, seed, on_shard
        self._announced = (-1, 0)  # epoch, and number of shards in its order
        self._plan = lru_cache(maxsize=1)(self._make_plan)
        self._rows = lru_cache(maxsize=2)(self._make_rows)

    def __str__(self) -> str:
        shards = self._shards(0)
        return f"windows of {self._window} of {len(shards)} shards ({zlib.crc32(shards.tobytes()):08x})"

    def take(self, epoch: int, first: int, last: int) -> tuple[Rows, Rows]:
        bounds = self._plan(epoch)[2]
        taken: list[Rows] = []
        while first < min(last, int(bounds[-1])):
            number = int(np.searchsorted(bounds, first, side="right")) - 1
            start, end = int(bounds[number]), int(bounds[number + 1])
            self._announce(epoch, number, (first - start) / (end - start))
            taken.append(self._rows(epoch, number)[first - start : last - start])
            first = end
        rows = np.concatenate(taken) if taken else np.empty(0, np.int64)
        return rows, np.full_like(rows, epoch)

    def _make_plan(self, epoch: int) -> tuple[Rows, Rows, Rows]:
        """Return first rows and sizes of the shards in the order of the epoch, and the bounds of the windows."""
        sizes = self._shards(epoch)
        order = _generator(self._seed, epoch, -1).permutation(len(sizes))
        firsts = np.cumsum(sizes) - sizes
        bounds = np.append(np.concatenate([[0], np.cumsum(sizes[order])])[: len(sizes) : self._window], sizes.sum())
        return firsts[order], sizes[order], bounds

    def _make_rows(self, epoch: int, window: int) -> Rows:
        firsts, sizes, _ = self._plan(epoch)
        part = slice(window * self._window, (window + 1) * self._window)
        shards = zip(firsts[part], sizes[part], strict=True)
        rows = np.concatenate([np.arange(first, first + size) for first, size in shards])
        _generator(self._seed, epoch, -2 - window).shuffle(rows)
        return rows

    def _announce(self, epoch: int, window: int, share: float) -> None:
        if self._on_shard is None:
            return
        firsts, sizes, _ = self._plan(epoch)
        start = self._announced[1] if self._announced[0] == epoch else window * self._window
        end = min((window + 1) * self._window + int(share * self._window), len(sizes))
        for number in range(start, end):
            self._on_shard(int(firsts[number]), int(sizes[number]))
        self._announced = epoch, max(start, end)


class Mixed:
    """Rows of several sources in constant shares, each gone through again and again in its own order.

    An epoch has `epoch_length` samples. Every few thousand samples contain the exact shares.
    """

    def __init__(
        self, orders: Sequence[Order], lengths: Sequence[int], weights: Sequence[int], seed: int, epoch_length: int
    ) -> None:
        if len(weights) != len(orders):
            raise ConfigError(f"mix {_list(weights)}: must have one weight for each of {len(orders)} sources")
        if min(weights) < 1 or sum(weights) > _MAX_WEIGHTS:
            raise ConfigError(f"mix {_list(weights)}: must be whole numbers from 1, their sum at most {_MAX_WEIGHTS:,}")
        if min(lengths) < 1:
            raise ConfigError(f"mix {_list(weights)}: source {lengths.index(0) + 1} has no rows to train on")
        self._orders, self._lengths, self._seed = tuple(orders), tuple(lengths), seed
        self._epoch_length = epoch_length
        self._weights = np.array(weights) // gcd(*weights)
        self._counts = self._weights * max(1, _BLOCK // int(self._weights.sum()))  # of each source in a block
        self._block = lru_cache(maxsize=2)(self._make_block)

    def __str__(self) -> str:
        parts = zip(self._weights, self._lengths, self._orders, strict=True)
        return "; ".join(f"{weight} of {length} rows, {order}" for weight, length, order in parts)

    def take(self, epoch: int, first: int, last: int) -> tuple[Rows, Rows]:
        start, end, size = epoch * self._epoch_length + first, epoch * self._epoch_length + last, self._counts.sum()
        sources, places = (
            np.concatenate(parts)[start % size : start % size + end - start]
            for parts in zip(*(self._block(block) for block in range(start // size, -(-end // size))), strict=True)
        )
        rows, passes = np.empty(end - start, np.int64), np.empty(end - start, np.int64)
        for source in np.unique(sources):
            chosen = sources == source
            range_of_source = places[chosen]  # consecutive
            first, last = int(range_of_source[0]), int(range_of_source[-1]) + 1
            rows[chosen], passes[chosen] = self._take_source(int(source), first, last)
        return rows, passes

    def _make_block(self, block: int) -> tuple[Rows, Rows]:
        """Return for each position the source, and the place in the endless sequence of its rows."""
        sources = np.repeat(np.arange(len(self._counts)), self._counts)
        _generator(self._seed, block, -3).shuffle(sources)
        places = np.empty_like(sources)
        for source, count in enumerate(self._counts):
            places[sources == source] = np.arange(block * count, (block + 1) * count)
        return sources, places

    def _take_source(self, source: int, first: int, last: int) -> tuple[Rows, Rows]:
        parts = [self._orders[source].take(*part) for part in _passes(first, last, self._lengths[source])]
        rows, passes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return rows + sum(self._lengths[:source]), passes


def _passes(first: int, last: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first and last position of the passes over a source that contain a range."""
    for number in range(first // length, -(-last // length)):
        yield number, max(first - number * length, 0), min(last - number * length, length)


def _generator(*numbers: int) -> np.random.RandomState:
    return np.random.RandomState(mixed_bits(*numbers) & 0xFFFFFFFF)  # numpy guarantees its stream


def _list(weights: Sequence[int]) -> str:
    return ",".join(map(str, weights))
