"""Batches as a function of seed and step, so that a run resumes exactly with any number of workers.

The samples of a batch, their order, and the seed of each sample's augmentation follow from (seed, step) alone; the
step is the only state to save.
"""

from __future__ import annotations

import signal
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from blip.data.order import Order, Shuffled
from blip.runtime import cores, mixed_bits
from blip_lite.errors import BadRecord, BlipError, ConfigError

S_co = TypeVar("S_co", covariant=True)
S = TypeVar("S")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class SampleRef:
    """Index of a sample in a data set.

    `seed` (63 bits) follows from run seed, index and epoch only; in a mixture, from the pass over the source instead.
    """

    index: int
    epoch: int
    seed: int


class Samples(Protocol[S_co]):
    """A data set of one task: returns a sample for a reference."""

    def __len__(self) -> int: ...

    def __getitem__(self, ref: SampleRef, /) -> S_co: ...


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of a sample's augmentation, or of a step's random draws on a rank."""
    return mixed_bits(seed, epoch, index)


class EpochSampler:
    """Indices of every batch of a run. `batch_size` is the total over all ranks.

    length: samples per epoch, or a function of the epoch, which is called once for each epoch up to the current one.
    order: of the rows of an epoch; by default all are shuffled (with `shuffle`).
    `parts` splits each batch into equal, consecutive parts (gradient accumulation); `batch` and `refs` then count
    parts. Ranks take consecutive shares, so gathering them in rank order restores the batch of one process. With
    `drop_last` the remainder of an epoch (up to batch_size - 1 samples, others every epoch) is left out.
    """

    def __init__(
        self,
        length: int | Callable[[int], int],
        batch_size: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        order: Order | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % (world_size * parts):
            split = f"the {world_size} processes" + (f" times {parts} parts" if parts > 1 else "")
            raise ConfigError(f"batch size {batch_size}: must be a positive multiple of {split}")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank}: must be from 0 to {world_size - 1}")
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size, self.parts = rank, world_size, parts
        self.drop_last = drop_last
        self.order: Order = order or Shuffled(self.length, seed, shuffle=shuffle)
        self._length = length
        self._lengths: list[int] = []  # samples of the epochs so far
        self._firsts = [0]  # first step of each epoch so far and of the next one
        self.steps_in(0)

    def length(self, epoch: int) -> int:
        """Return the number of samples of an epoch."""
        self._extend(epoch)
        return self._lengths[epoch]

    def steps_in(self, epoch: int) -> int:
        """Return the number of steps of an epoch."""
        self._extend(epoch)
        return self._firsts[epoch + 1] - self._firsts[epoch]

    def first_step(self, epoch: int) -> int:
        """Return the index of an epoch's first step in the run, which is the number of steps of all epochs before."""
        self._extend(epoch - 1)
        return self._firsts[epoch]

    def epoch(self, step: int) -> int:
        """Return the epoch of a step (not of a part)."""
        while self._firsts[-1] <= step:
            self._extend(len(self._lengths))
        return bisect_right(self._firsts, step) - 1

    def batch(self, step: int) -> list[int]:
        """Return this rank's indices of global step `step` (from 0, over all epochs)."""
        return [ref.index for ref in self.refs(step)]

    def refs(self, step: int) -> list[SampleRef]:
        """Return `batch` with the epoch and the seed of each sample."""
        step, part = divmod(step, self.parts)
        epoch = self.epoch(step)
        start = (step - self._firsts[epoch]) * self.batch_size
        rows, passes = self.order.take(epoch, start, min(start + self.batch_size, self.length(epoch)))
        shares, share = self.parts * self.world_size, part * self.world_size + self.rank
        local = slice(len(rows) * share // shares, len(rows) * (share + 1) // shares)
        pairs = zip(rows[local].tolist(), passes[local].tolist(), strict=True)
        return [SampleRef(row, epoch, sample_seed(self.seed, number, row)) for row, number in pairs]

    def _extend(self, epoch: int) -> None:
        """Determine the lengths of all epochs up to this one."""
        for i in range(len(self._lengths), epoch + 1):
            length = self._length if isinstance(self._length, int) else self._length(i)
            if length < (self.batch_size if self.drop_last else 1):
                which = "" if isinstance(self._length, int) else f" in epoch {i}"
                raise ConfigError(f"batch size {self.batch_size}: the data has only {length} samples{which}")
            steps = length // self.batch_size if self.drop_last else -(-length // self.batch_size)
            self._lengths.append(length)
            self._firsts.append(self._firsts[-1] + steps)


def batches(
    dataset: Samples[S],
    collate: Callable[[Sequence[S]], B],
    sampler: EpochSampler,
    start_step: int = 0,
    num_workers: int = 0,
    *,
    stop_step: int | None = None,
    prefetch: int = 2,
    pin_memory: bool = False,
    start_method: str | None = None,
    on_bad: Callable[[BadRecord], object] | None = None,
) -> Iterator[tuple[int, B]]:
    """Yield (step, batch) from `start_step` on, endlessly or up to `stop_step`; the same for any `num_workers`.

    Workers (one torch thread each) read and collate `prefetch` batches ahead each. The error of a sample is raised at
    its step; with `on_bad` a `BadRecord` is passed to it, and the next good sample of the data takes its place, so that
    batches depend on the files alone. Torch's global generator is not used.
    """
    fetch = _Fetch(dataset, collate, on_bad is not None)
    steps = _Steps(sampler, start_step, stop_step)
    report = on_bad or _unchanged
    if num_workers == 0:
        for step, refs in steps:
            batch, bad = fetch.batch(refs)
            for error in bad:
                report(error)
            yield step, batch
        return
    num_workers = min(num_workers, cores())  # more do not help, and torch warns about them
    loader: DataLoader[Any] = DataLoader(
        fetch,
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        prefetch_factor=prefetch,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method,
        generator=torch.Generator(),  # otherwise each start draws from the global one
    )
    for step, result in loader:
        if isinstance(result, BlipError):
            raise result
        batch, bad = result
        for error in bad:
            report(error)
        yield step, batch


class _Steps(Sampler[tuple[int, list[SampleRef]]]):
    def __init__(self, sampler: EpochSampler, start: int, stop: int | None) -> None:
        self.sampler, self.start, self.stop = sampler, start, stop

    def __iter__(self) -> Iterator[tuple[int, list[SampleRef]]]:
        for step in count(self.start) if self.stop is None else range(self.start, self.stop):
            yield step, self.sampler.refs(step)


class _Fetch(Dataset[Any], Generic[S, B]):
    """Returns the batch of a step and the bad rows that others replace.

    Errors are returned, since torch cannot raise those with two arguments again.
    """

    def __init__(self, dataset: Samples[S], collate: Callable[[Sequence[S]], B], skip_bad: bool) -> None:
        self.dataset, self.collate, self.skip_bad = dataset, collate, skip_bad

    def __getitem__(self, item: tuple[int, list[SampleRef]]) -> tuple[int, tuple[B, list[BadRecord]] | BlipError]:
        step, refs = item
        try:
            return step, self.batch(refs)
        except BlipError as error:
            return step, error

    def batch(self, refs: list[SampleRef]) -> tuple[B, list[BadRecord]]:
        bad: list[BadRecord] = []
        return self.collate([self._sample(ref, bad) for ref in refs]), bad

    def _sample(self, ref: SampleRef, bad: list[BadRecord]) -> S:
        """Return a sample, or with `skip_bad` the first good one from it on."""
        if not self.skip_bad:
            return self.dataset[ref]
        length = getattr(self.dataset, "epoch_length", lambda epoch: len(self.dataset))(ref.epoch)
        errors: list[BadRecord] = []
        for offset in range(length):
            try:
                sample = self.dataset[replace(ref, index=(ref.index + offset) % length)]
            except BadRecord as error:
                errors.append(error)
                continue
            bad += errors
            return sample
        raise errors[0]


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    """Use one thread; leave signals that end a run, often sent to all its processes, to the main process."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
