"""Results in the order of the items, a bounded number of items ahead, no thread left behind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from blip.io.ordered_map import batched, ordered_map


def slowly_square(number: int) -> int:
    time.sleep(random.Random(number).random() / 500)
    return number * number


@pytest.mark.parametrize("ahead", [0, 1, 7, 100])
@pytest.mark.parametrize("workers", [1, 4])
def test_results_come_in_the_order_of_the_items(ahead: int, workers: int) -> None:
    assert list(ordered_map(slowly_square, range(50), ahead=ahead, workers=workers)) == [n * n for n in range(50)]
    assert list(ordered_map(slowly_square, [], ahead=ahead, workers=workers)) == []


@pytest.mark.parametrize("ahead", [0, 3, 8])
def test_no_more_than_the_given_number_of_items_is_taken_ahead(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            yield number

    for number, _ in enumerate(ordered_map(slowly_square, items(), ahead=ahead, workers=3)):
        assert len(taken) <= number + 1 + ahead


def test_an_exception_is_raised_at_its_item() -> None:
    results = ordered_map(lambda number: 10 // (number - 3), range(9), ahead=5, workers=2)
    assert [next(results) for _ in range(3)] == [-4, -5, -10]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_an_exception_of_the_items_passes_after_the_threads_have_ended() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="gone"):
        list(ordered_map(slowly_square, items(), ahead=4, workers=2))
    assert threading.active_count() == before


def test_a_consumer_that_stops_leaves_no_thread_and_no_further_calls() -> None:
    before, called = threading.active_count(), []
    results = ordered_map(lambda number: called.append(number) or time.sleep(0.01), range(100), ahead=50, workers=2)
    next(results)
    results.close()
    calls = len(called)
    assert threading.active_count() == before and calls < 10
    time.sleep(0.05)
    assert len(called) == calls


def test_batches_hold_all_items_in_order() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]] and list(batched([], 3)) == []
