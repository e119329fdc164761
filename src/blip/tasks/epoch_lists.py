"""Pre-training data of which every epoch takes another part: fixed lists, and one file of a folder (blip-spec 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blip.data.loader import SampleRef
from blip.data.sources import SampleList, concatenate
from blip.data.task_rows import pretraining_source
from blip.tasks.images import ImageLoader, TrainingPhotos, TrainingSample

FILE = 2**40  # how far apart the sample numbers of two files are


class EpochLists:
    """`TrainingPhotos` of the fixed lists and of that file whose turn it is: epoch modulo the number of files.

    Files are opened when they are needed and one at a time, in every worker by itself. original: keeps the sampler's
    length when the file changes; ours: has a length for each epoch (blip-spec 7.17h).
    """

    def __init__(
        self, fixed: Sequence[str], folder: str, pixels: ImageLoader, texts_per_image: int, max_words: int
    ) -> None:
        self.folder, self.pixels = folder, pixels
        self.texts_per_image, self.max_words = texts_per_image, max_words
        self.fixed = pretraining_source(fixed, None, 0, require_text=True)
        self.files = len(list(Path(folder).glob("*.json")))
        self._lengths: dict[int, int] = {}  # by file
        self._open(0)

    def __len__(self) -> int:
        return self.epoch_length(0)

    def epoch_length(self, epoch: int) -> int:
        """Samples of an epoch; opens its file the first time."""
        turn = epoch % self.files
        if turn not in self._lengths:
            self._open(turn)
        return self._lengths[turn]

    @property
    def source(self) -> SampleList:
        """The records of the file that is open."""
        return self._records

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        turn = ref.epoch % self.files
        if turn != self._turn:
            self._open(turn)
        sample = TrainingPhotos(self._records, self.pixels, self.texts_per_image, self.max_words)[ref]
        return sample if ref.index < len(self.fixed) else replace(sample, index=ref.index + turn * FILE)

    def _open(self, turn: int) -> None:
        web = pretraining_source((), self.folder, turn, require_text=True)
        self._turn, self._records = turn, concatenate([self.fixed, web])
        self._lengths[turn] = len(self._records)
