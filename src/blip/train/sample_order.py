"""The order of training samples: shuffled in memory, in windows of shards on disk, or mixed by weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from blip.data.indexed_source import IndexedSource
from blip.data.order import Mixed, OnShard, Order, Rows, Shuffled, Windowed
from blip.data.read_ahead import read_ahead
from blip.data.sources import Source
from blip.runtime import mixed_bits
from blip.tasks.base import Dataset
from blip.train.config import TrainConfig
from blip_lite.errors import ConfigError


def sample_order(data: Dataset, config: TrainConfig, samples: int) -> Order | None:
    """Return the order of a data set's samples, None for the default: all rows shuffled.

    samples: number that an epoch of a mixture takes.
    """
    epoch_length, epoch_shards = (getattr(data, name, None) for name in ("epoch_length", "epoch_shards"))
    if epoch_length is not None:
        if config.mix is not None:
            raise ConfigError("mix: not with lists that change with the epoch (web)")
        return None if epoch_shards is None else _ByEpoch(epoch_shards, epoch_length, config)
    source = getattr(data, "source", None)
    if config.mix is not None:
        if source is None or len(source) != len(data):
            raise ConfigError("mix: not with a task whose samples are not single rows")
        parts = source.parts
        bounds = [0, *np.cumsum(parts).tolist()]
        orders = [_of_part(source, a, b, number, config) for number, (a, b) in enumerate(pairwise(bounds))]
        return Mixed(orders, parts, config.mix, config.seed, samples)
    return _of_part(source, 0, len(source), None, config) if isinstance(source, IndexedSource) else None


def _of_part(source: Source, first: int, last: int, number: int | None, config: TrainConfig) -> Order:
    """Return the order of consecutive rows, the part of a mixture with this number."""
    seed = config.seed if number is None else mixed_bits(config.seed, number)
    if not isinstance(source, IndexedSource):
        return Shuffled(lambda epoch: last - first, seed)
    ends = np.cumsum(source.shards)
    shards = source.shards[(ends > first) & (ends <= last)]
    ahead = read_ahead(source, config.shuffle_window)
    on_shard: OnShard | None = None if ahead is None else lambda row, count: ahead(first + row, count)
    return Windowed(lambda epoch: shards, config.shuffle_window, seed, on_shard)


class _ByEpoch:
    """Windows in epochs whose rows are indexed, all rows shuffled in others. shards: None for these."""

    def __init__(self, shards: Callable[[int], Rows | None], length: Callable[[int], int], config: TrainConfig) -> None:
        self._shards = shards
        self._windowed = Windowed(self._known_shards, config.shuffle_window, config.seed)
        self._shuffled = Shuffled(length, config.seed)

    def __str__(self) -> str:
        return str(self._order(0))

    def take(self, epoch: int, first: int, last: int) -> tuple[Rows, Rows]:
        return self._order(epoch).take(epoch, first, last)

    def _order(self, epoch: int) -> Order:
        return self._shuffled if self._shards(epoch) is None else self._windowed

    def _known_shards(self, epoch: int) -> Rows:
        shards = self._shards(epoch)
        assert shards is not None
        return shards
