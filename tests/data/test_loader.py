from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from blip.data.loader import EpochSampler, SampleRef, batches, sample_seed
from blip_lite.errors import BadRecord, ConfigError


class Numbers:
    """Samples that return their reference; index 13 fails if `bad`."""

    def __init__(self, length: int, bad: bool = False) -> None:
        self.length, self.bad = length, bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, ref: SampleRef) -> tuple[int, int, int]:
        if self.bad and ref.index == 13:
            raise BadRecord("list.json:14", "image 13.png: truncated image")
        return ref.index, ref.epoch, ref.seed


def collate(samples: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return list(samples)


def threads(samples: Sequence[tuple[int, int, int]]) -> int:
    return torch.get_num_threads()


def test_an_epoch_has_every_sample_once_and_epochs_differ() -> None:
    sampler = EpochSampler(20, 5, seed=1)
    first, second = ([i for step in steps for i in sampler.batch(step)] for steps in (range(4), range(4, 8)))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_order_depends_on_seed_and_step_only() -> None:
    forward = [EpochSampler(23, 4, seed=5).batch(step) for step in range(12)]
    sampler = EpochSampler(23, 4, seed=5)
    assert [sampler.batch(step) for step in reversed(range(12))] == forward[::-1]
    assert [EpochSampler(23, 4, seed=6).batch(step) for step in range(12)] != forward


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_in_order_make_up_the_batch_of_one_process(shuffle: bool, drop_last: bool) -> None:
    whole = EpochSampler(22, 8, shuffle=shuffle, drop_last=drop_last)
    ranks = [EpochSampler(22, 8, rank=r, world_size=4, shuffle=shuffle, drop_last=drop_last) for r in range(4)]
    for step in range(3 * whole.steps_in(0)):
        assert [i for rank in ranks for i in rank.batch(step)] == whole.batch(step)


def test_the_last_batch_is_short_or_dropped() -> None:
    kept = EpochSampler(10, 4, shuffle=False, drop_last=False)
    assert (kept.steps_in(0), kept.batch(2), kept.batch(3)) == (3, [8, 9], [0, 1, 2, 3])
    assert EpochSampler(10, 4).steps_in(0) == 2


@pytest.mark.parametrize(
    ("length", "batch", "world", "reason"),
    [(3, 4, 1, "only 3 samples"), (8, 0, 1, "positive multiple"), (8, 6, 4, "multiple of the 4 processes")],
)
def test_invalid_batch_sizes_are_rejected(length: int, batch: int, world: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        EpochSampler(length, batch, world_size=world)


def test_epochs_of_different_lengths_have_every_sample_once() -> None:
    requested: list[int] = []

    def length(epoch: int) -> int:
        requested.append(epoch)
        return (8, 12)[epoch % 2]

    sampler = EpochSampler(length, 4, seed=1)
    assert requested == [0]
    assert [sampler.epoch(step) for step in range(8)] == [0, 0, 1, 1, 1, 2, 2, 3]
    assert [sampler.steps_in(epoch) for epoch in range(3)] == [2, 3, 2]
    assert [sampler.first_step(epoch) for epoch in range(4)] == [0, 2, 5, 7]
    assert sorted(i for step in (2, 3, 4) for i in sampler.batch(step)) == list(range(12))
    assert {ref.epoch for ref in sampler.refs(4)} == {1}
    assert requested == [0, 1, 2, 3]
    resumed = EpochSampler(length, 4, seed=1)
    assert [resumed.refs(step) for step in (4, 5, 6)] == [sampler.refs(step) for step in (4, 5, 6)]


def test_parts_of_epochs_of_different_lengths_make_up_their_batches() -> None:
    lengths = lambda epoch: (8, 12)[epoch % 2]  # noqa: E731
    whole, parts = EpochSampler(lengths, 4), EpochSampler(lengths, 4, parts=2)
    assert [parts.batch(2 * s) + parts.batch(2 * s + 1) for s in range(7)] == [whole.batch(s) for s in range(7)]
    assert [ref.epoch for ref in parts.refs(5)] == [1, 1]


def test_an_epoch_without_a_batch_is_an_error() -> None:
    sampler = EpochSampler(lambda epoch: 8 - 5 * epoch, 4)
    with pytest.raises(ConfigError, match="batch size 4: the data has only 3 samples in epoch 1"):
        sampler.batch(2)


def test_sample_seeds_are_distinct_and_fit_63_bits() -> None:
    seeds = {sample_seed(s, e, i) for s in range(5) for e in range(5) for i in range(40)}
    assert len(seeds) == 1000
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert len({seed % 2**32 for seed in seeds}) == 1000


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_for_any_number_of_workers(workers: int) -> None:
    sampler = EpochSampler(17, 4, seed=3)
    expected = [(s, [(r.index, r.epoch, r.seed) for r in sampler.refs(s)]) for s in range(2, 11)]
    assert list(batches(Numbers(17), collate, sampler, 2, workers, stop_step=11)) == expected


def test_batches_are_endless_without_stop_step() -> None:
    endless = batches(Numbers(17), collate, EpochSampler(17, 4), 5, 1)
    assert [next(endless)[0] for _ in range(9)] == list(range(5, 14))
    endless.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_of_a_sample_is_raised_at_its_step(workers: int) -> None:
    sampler = EpochSampler(20, 5, shuffle=False)
    steps = batches(Numbers(20, bad=True), collate, sampler, 0, workers)
    assert [next(steps)[0], next(steps)[0]] == [0, 1]
    with pytest.raises(BadRecord, match=r"list\.json:14: image 13\.png: truncated image"):
        next(steps)


def test_workers_leave_the_global_generator_alone_and_have_one_thread() -> None:
    before = torch.get_rng_state()
    assert [n for _, n in batches(Numbers(8), threads, EpochSampler(8, 4), 0, 2, stop_step=2)] == [1, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_spawned_workers_return_the_same_batches() -> None:
    sampler = EpochSampler(9, 3, seed=2)
    here = list(batches(Numbers(9), collate, sampler, 0, 0, stop_step=2))
    assert list(batches(Numbers(9), collate, sampler, 0, 1, stop_step=2, start_method="spawn")) == here
