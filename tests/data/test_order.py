from __future__ import annotations

import numpy as np
import pytest

from blip.data.loader import EpochSampler
from blip.data.order import Mixed, Order, Rows, Shuffled, Windowed
from blip_lite.errors import ConfigError

SIZES = np.array([7, 3, 5, 6, 4])  # 25 rows


def shards(epoch: int) -> Rows:
    return SIZES


def windowed(window: int = 2, seed: int = 3) -> Windowed:
    return Windowed(shards, window, seed)


def all_rows(order: Order, epoch: int = 0, length: int = 25) -> list[int]:
    return order.take(epoch, 0, length)[0].tolist()


def test_windows_contain_every_row_once_and_epochs_and_seeds_differ() -> None:
    first, second, other = all_rows(windowed()), all_rows(windowed(), 1), all_rows(windowed(seed=4))
    assert sorted(first) == sorted(second) == sorted(other) == list(range(25))
    assert first != second != other != first


def test_rows_of_a_window_are_those_of_its_shards_in_random_order() -> None:
    rows, shard_of = all_rows(windowed(2)), np.repeat(np.arange(5), SIZES)
    visited = [int(shard_of[row]) for row in rows]
    windows: list[list[int]] = []
    start = 0
    for _ in range(3):
        members: set[int] = set()
        end = start
        while end < 25 and (visited[end] in members or len(members) < 2):
            members.add(visited[end])
            end += 1
        assert end - start == sum(int(SIZES[shard]) for shard in members)  # each of its shards is complete
        windows.append(sorted(members))
        start = end
    assert start == 25 and sorted(shard for window in windows for shard in window) == list(range(5))
    assert rows[:4] != sorted(rows[:4])


@pytest.mark.parametrize("window", [1, 2, 5, 16])
def test_any_part_of_an_epoch_is_the_same_alone(window: int) -> None:
    whole = all_rows(windowed(window), 2)
    for first in range(0, 25, 3):
        for last in (first + 1, first + 4, 25):
            rows, passes = windowed(window).take(2, first, last)
            assert rows.tolist() == whole[first:last]
            assert set(passes.tolist()) <= {2}


def test_ranks_and_resumed_runs_take_their_rows_from_a_windowed_order() -> None:
    whole = EpochSampler(25, 4, seed=3, order=windowed())
    ranks = [EpochSampler(25, 4, seed=3, rank=r, world_size=2, order=windowed()) for r in range(2)]
    for step in reversed(range(18)):
        assert [ref for rank in ranks for ref in rank.refs(step)] == whole.refs(step)
    assert len({i for step in range(6) for i in whole.batch(step)}) == 24


def test_shards_are_announced_once_before_their_rows_and_ahead_by_a_window() -> None:
    announced: list[tuple[int, int]] = []
    order = Windowed(shards, 2, 3, lambda first, count: announced.append((first, count)))
    firsts = np.cumsum(SIZES) - SIZES
    for position in range(25):
        row = int(order.take(0, position, position + 1)[0][0])
        assert any(first <= row < first + count for first, count in announced)
    assert sorted(announced) == [(int(a), int(b)) for a, b in zip(firsts, SIZES, strict=True)]
    before = len(announced)
    order.take(1, 0, 1)
    assert len(announced) == before + 2
    order.take(1, 24, 25)  # a resumed run announces from its own window on
    assert len(announced) == before + 5


def test_an_order_of_a_hundred_million_rows_needs_no_permutation_of_them() -> None:
    sizes = np.full(10_000, 10_000)
    order = Windowed(lambda epoch: sizes, 16, 1)
    rows = order.take(3, 50_000_000, 50_000_600)[0]
    assert len(set(rows.tolist())) == 600 and len(set((rows // 10_000).tolist())) <= 16
    assert rows.tolist() == Windowed(lambda epoch: sizes, 16, 1).take(3, 50_000_000, 50_000_600)[0].tolist()


def mixed(weights: list[int], samples: int = 40) -> Mixed:
    orders = [Shuffled(lambda epoch: 10, 5), Windowed(lambda epoch: np.array([20, 10]), 1, 6)]
    return Mixed(orders, [10, 30], weights, 1, samples)


def test_a_mixture_has_the_shares_of_its_weights() -> None:
    rows, _ = mixed([1, 3]).take(0, 0, 40_000)
    assert abs(int((rows < 10).sum()) - 10_000) < 20
    for start in range(0, 40_000, 4096):
        assert 0.24 < (rows[start : start + 4096] < 10).mean() < 0.26
    doubled = mixed([2, 6]).take(0, 0, 40_000)[0]
    assert rows.tolist() == doubled.tolist()


def test_sources_of_a_mixture_are_gone_through_completely_before_they_repeat() -> None:
    rows, passes = mixed([1, 1]).take(0, 0, 2000)
    small = rows[rows < 10]
    for number in range(90):
        part = small[number * 10 : number * 10 + 10]
        assert sorted(part.tolist()) == list(range(10))
        assert set(passes[rows < 10][number * 10 : number * 10 + 10].tolist()) == {number}
    large = rows[rows >= 10]
    assert sorted(large[:30].tolist()) == sorted(large[30:60].tolist()) == list(range(10, 40))
    assert large[:30].tolist() != large[30:60].tolist()


def test_any_part_of_a_mixture_is_the_same_alone_and_epochs_continue_it() -> None:
    order = mixed([1, 2], 40)
    rows, passes = order.take(0, 0, 10_000)
    for epoch, first, last in ((0, 3, 9), (2, 0, 40), (103, 5, 25), (200, 39, 40)):
        start = epoch * 40
        alone = mixed([1, 2], 40).take(epoch, first, last)
        assert alone[0].tolist() == rows[start + first : start + last].tolist()
        assert alone[1].tolist() == passes[start + first : start + last].tolist()


def test_samples_that_repeat_in_an_epoch_of_a_mixture_are_augmented_differently() -> None:
    sampler = EpochSampler(40, 8, seed=1, order=mixed([3, 1]))
    refs = [ref for step in range(5) for ref in sampler.refs(step) if ref.index == 4]
    assert len(refs) >= 2 and len({ref.seed for ref in refs}) == len(refs)
    assert {ref.epoch for ref in refs} == {0}


@pytest.mark.parametrize(
    ("weights", "lengths", "reason"),
    [
        ([1], [10, 30], "mix 1: must have one weight for each of 2 sources"),
        ([1, 0], [10, 30], "mix 1,0: must be whole numbers from 1"),
        ([1, 10_000], [10, 30], "their sum at most 10,000"),
        ([1, 1], [10, 0], "mix 1,1: source 2 has no rows to train on"),
    ],
)
def test_weights_that_cannot_be_used_are_named(weights: list[int], lengths: list[int], reason: str) -> None:
    orders = [Shuffled(lambda epoch: 10, 1), Shuffled(lambda epoch: 30, 1)]
    with pytest.raises(ConfigError, match=reason):
        Mixed(orders, lengths, weights, 1, 40)
