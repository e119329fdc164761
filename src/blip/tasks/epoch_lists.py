"""Pre-training data that changes with the epoch: fixed lists plus one list of a folder (blip-spec 4.1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blip.data.indexed_source import IndexedSource, join, open_for_training
from blip.data.loader import SampleRef
from blip.data.sources import Reading, Source
from blip.tasks.images import ImageLoader, TrainingImages, TrainingSample
from blip_lite.errors import UsageError

LIST_STRIDE = 2**40  # distance between the sample numbers of two lists


class EpochLists:
    """Samples of the fixed source and of one list of a folder: epoch modulo the number of lists, in sorted order.

    Lists are opened one at a time when needed, in each worker separately. original: keeps the sampler's length when the
    list changes, and the folder's own order; ours: has a length for each epoch (blip-spec 7.17h).
    """

    def __init__(
        self,
        fixed: Source,
        folder: str,
        reading: Reading,
        loader: ImageLoader,
        texts_per_image: int,
        max_words: int,
    ) -> None:
        self.fixed, self.reading, self.loader = fixed, reading, loader
        self.texts_per_image, self.max_words = texts_per_image, max_words
        self.lists = sorted(Path(folder).glob("*.json"))
        if not self.lists:
            raise UsageError(f"{folder}: contains no .json lists")
        self._lengths: dict[int, int] = {}  # by list
        self._shards: dict[int, NDArray[np.int64] | None] = {}
        self._open(0)

    def __len__(self) -> int:
        return self.epoch_length(0)

    def epoch_length(self, epoch: int) -> int:
        """Number of samples of an epoch; opens its list the first time."""
        number = epoch % len(self.lists)
        if number not in self._lengths:
            self._open(number)
        return self._lengths[number]

    def epoch_shards(self, epoch: int) -> NDArray[np.int64] | None:
        """Numbers of rows of the shards of an epoch, None if all its rows are in memory."""
        self.epoch_length(epoch)
        return self._shards[epoch % len(self.lists)]

    @property
    def source(self) -> Source:
        """Samples of the list that is open."""
        return self._images.source

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        number = ref.epoch % len(self.lists)
        if number != self._number:
            self._open(number)
        sample = self._images[ref]
        return sample if ref.index < len(self.fixed) else replace(sample, index=ref.index + number * LIST_STRIDE)

    def _open(self, number: int) -> None:
        reading = replace(self.reading)  # a new one each time: it keeps what it has opened
        source = join([self.fixed, open_for_training(reading, self.lists[number], need_text=True)])
        self._number, self._lengths[number] = number, len(source)
        self._shards[number] = source.shards if isinstance(source, IndexedSource) else None
        self._images = TrainingImages(source, self.loader, self.texts_per_image, self.max_words)
