"""The pool of processes on Ray. Slow: starting a cluster takes seconds, so that all tests share one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blip.engine import local, ray_cluster, ray_pool
from blip.engine.ray_pool import REPORTS, Pool, Worker, give_up
from blip_lite.errors import EnvironmentProblem, UsageError
from tests.engine.toy import BATCHES, Toy, contents, prepare
from tests.waiting import wait_until

NAMES = [f"{i}.tar" for i in range(6)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    pytest.importorskip("ray.data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 2)
        with ray_cluster.connected(None):
            yield


@pytest.mark.slow
def test_two_processes_write_what_one_writes(cluster: None, toy: Toy, tmp_path: Path) -> None:
    units, folder, progress = prepare(tmp_path / "local", NAMES)
    local.run(toy, units, folder, progress)
    expected = contents(folder)
    units, folder, progress = prepare(tmp_path / "ray", NAMES)
    ray_pool.run(toy, units, folder, progress, actors=2)
    assert contents(folder) == expected and len(expected) == 6
    assert len(list(toy.processes.iterdir())) == 3
    assert (progress.finished, progress.counts.images, progress.problems) == (6, 12 * BATCHES, {})


@pytest.mark.slow
def test_a_killed_process_changes_nothing(cluster: None, toy: Toy, tmp_path: Path) -> None:
    units, folder, progress = prepare(tmp_path / "ray", NAMES)
    toy.seconds = 0.2

    def kill() -> None:
        wait_until(lambda: progress.counts.images >= 6)
        os.kill(int(next(toy.processes.iterdir()).name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ray_pool.run(toy, units, folder, progress, actors=2)
    killer.join()
    assert contents(folder) == {f"{i}.parquet": f"{i} .tar".encode() for i in range(6)}
    assert len(list(toy.processes.iterdir())) == 3
    assert (progress.finished, progress.counts.images, progress.problems) == (6, 12 * BATCHES, {})


@pytest.mark.slow
def test_failing_units_do_not_stop_the_others(cluster: None, toy: Toy, tmp_path: Path) -> None:
    units, folder, progress = prepare(tmp_path / "ray", ["0.tar", "bug.tar", "bad.tar", "crash.tar", "1.tar"])
    ray_pool.run(toy, units, folder, progress, actors=2)
    assert sorted(contents(folder)) == ["0.parquet", "1.parquet"]
    assert progress.finished == 5
    assert progress.problems.pop("bug").startswith("ZeroDivisionError: a bug (toy.py, line ")
    assert progress.problems == {
        "bad": "bad.tar: not a tar",
        "crash": "the process that worked on it was lost 4 times",
    }


@pytest.mark.slow
def test_what_concerns_all_units_is_raised(cluster: None, toy: Toy, tmp_path: Path) -> None:
    units, folder, progress = prepare(tmp_path / "ray", ["full.tar"])
    with pytest.raises(EnvironmentProblem, match="no space left"):
        ray_pool.run(toy, units, folder, progress)
    toy.processes = tmp_path / "missing"
    with pytest.raises(UsageError, match="no folder of processes"):
        ray_pool.run(toy, units, folder, progress)


@pytest.mark.parametrize("batches", [1, 3, 20, 21, 1000])
def test_a_process_reports_all_counts_in_a_bounded_number_of_events(toy: Toy, tmp_path: Path, batches: int) -> None:
    toy.seconds, toy.batches = 0, batches
    units, folder, _ = prepare(tmp_path / "out", ["0.tar"])
    worker = Worker(toy, units, folder, os.getcwd(), 1, None)
    *events, last = worker.events(0)
    assert sum(event.counts.images for event in [*events, last]) == 2 * batches
    assert len(events) <= min(batches, REPORTS) < len(list(give_up(0)))
    assert last.problem == "" and {event.problem for event in events} <= {None} and len(contents(folder)) == 1


@pytest.mark.parametrize(
    ("resources", "actors", "gpu", "pool"),
    [
        ([{"CPU": 8}], 1, True, Pool(1, 8, 0)),
        ([{"CPU": 8}, {"CPU": 4}, {}], 2, True, Pool(4, 2, 0)),
        ([{"CPU": 2}], 4, True, Pool(4, 0.5, 0)),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 4}], 2, True, Pool(8, 1, 1)),
        ([{"CPU": 64, "GPU": 8}], 2, False, Pool(2, 32, 0)),
    ],
)
def test_processes_follow_the_machines(resources: list[dict[str, float]], actors: int, gpu: bool, pool: Pool) -> None:
    nodes = [*({"Alive": True, "Resources": r} for r in resources), {"Alive": False, "Resources": {"CPU": 1}}]
    assert Pool.of(nodes, actors, gpu) == pool


def test_no_cluster_is_started_for_no_units(toy: Toy, tmp_path: Path) -> None:
    ray_pool.run(toy, *prepare(tmp_path, []), address="192.0.2.1:1")
