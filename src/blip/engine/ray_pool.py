"""Work on the units of an output folder in a pool of processes that hold the models, on Ray.

The units are a Ray dataset, and `map_batches` with an actor pool does the work. Scheduling and transport are Ray's, and
so are retries: a lost process is started again, on another machine if necessary, and its unit is done from the start.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from blip.engine.folder import OutputFolder
from blip.engine.progress import Progress
from blip.engine.ray_cluster import connected
from blip.engine.units import Unit
from blip.engine.work import Counts, Work, attempt
from blip.io.lock import remove_abandoned
from blip_lite.errors import BlipError, EnvironmentProblem

ATTEMPTS = 4  # at a unit whose process is lost
END_SECONDS = 5.0  # that processes of an interrupted run may take to end
REPORTS = 20  # of a process about one unit: the driver receives those of all processes


def run(
    work: Work,
    units: Sequence[Unit],
    folder: OutputFolder,
    progress: Progress,
    *,
    actors: int = 1,
    gpu: bool = True,
    address: str | None = None,
) -> None:
    """Write the files of unfinished units, several at a time. A failing unit does not stop the others.

    actors: processes per machine. gpu: if the cluster has GPUs, use a process for each of them instead. address: of a
    cluster; default RAY_ADDRESS, else one is started on this machine. Data and folder must have the same paths on all
    machines. Raises `MissingExtra`, `EnvironmentProblem`.
    """
    if not units:
        return
    with _complete_files(folder), connected(address) as ray, _data_settings():
        pool = Pool.of(ray.nodes(), actors, gpu)
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
        dataset = ray.data.from_items([{"unit": i} for i in range(len(units))], override_num_blocks=len(units))
        events = dataset.map_batches(
            Worker,
            fn_constructor_args=(work, units, folder, os.getcwd(), max(1, int(pool.cpus)), attempts),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(pool.size, len(units)), max_tasks_in_flight_per_actor=1),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        ).iter_batches(batch_size=None, prefetch_batches=0)
        for event in _events(ray, events):
            if isinstance(event.problem, BlipError):
                raise event.problem
            progress.update(units[event.unit], event.counts, event.share)
            if event.problem is not None:
                progress.finish(units[event.unit], event.problem)


@contextmanager
def _complete_files(folder: OutputFolder) -> Iterator[None]:
    """Remove at the end what lost processes have begun; wait for those that Ray is ending."""
    try:
        yield
    finally:
        limit = time.monotonic() + END_SECONDS
        while remove_abandoned(folder.files) and time.monotonic() < limit:
            time.sleep(0.05)


@contextmanager
def _data_settings() -> Iterator[None]:
    """Let Ray Data pass events on as they come, and print nothing."""
    data: Any = importlib.import_module("ray.data")
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the others write to Ray's own logs
            handler.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Ray's own defaults
        context = data.DataContext()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # bytes that are collected before they are passed on
    with data.DataContext.current(context):
        yield


@dataclass(frozen=True)
class Event:
    """Report of a process after some batches of a unit. The last one has a `problem`: "", or why the unit failed."""

    unit: int
    counts: Counts = field(default_factory=Counts)
    share: float = 1.0
    problem: str | BlipError | None = None


def _events(ray: Any, batches: Iterator[Mapping[str, Any]]) -> Iterator[Event]:
    """Yield what the processes report. Raises `EnvironmentProblem` if Ray or the models cannot be started."""
    try:
        for batch in batches:
            for data in batch["event"]:
                yield pickle.loads(data)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise EnvironmentProblem(f"Ray: {lines[-1].strip() if lines else type(error).__name__}") from error


@dataclass(frozen=True)
class Pool:
    """Number of processes, and the CPUs and GPUs of each."""

    size: int
    cpus: float
    gpus: int

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, Any]], actors: int, gpu: bool) -> Pool:
        """Return one process per GPU, else `actors` for each machine that has CPUs."""
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        gpus = sum(int(machine.get("GPU", 0)) for machine in resources)
        if gpu and gpus:
            return cls(gpus, 1, 1)
        cpus = [machine["CPU"] for machine in resources if machine.get("CPU")]
        share = min(cpus, default=1) / actors
        return cls(max(1, len(cpus)) * actors, share if share < 1 else int(share), 0)


class Attempts:
    """Counts how often each unit is begun; a Ray actor. A unit that makes its process crash must not run forever."""

    def __init__(self) -> None:
        self.counts = Counter[int]()

    def begin(self, unit: int) -> int:
        self.counts[unit] += 1
        return self.counts[unit]


class Worker:
    """A process that holds the models; a Ray actor."""

    def __init__(
        self, work: Work, units: Sequence[Unit], folder: OutputFolder, cwd: str, threads: int, attempts: Any
    ) -> None:
        os.chdir(cwd)  # paths may be relative
        self.work, self.units, self.folder, self.attempts = work, units, folder, attempts
        self.problem: BlipError | None = None  # that concerns all units
        try:
            work.load(threads)
        except BlipError as error:
            self.problem = error

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        """Process a unit, and yield events.

        Of a retry, Ray drops as many events as it has received before; so every attempt yields the same number.
        """
        ray: Any = importlib.import_module("ray")
        (number,) = batch["unit"].tolist()
        begun = ray.get(self.attempts.begin.remote(number))
        for event in self.events(number) if begun <= ATTEMPTS else give_up(number):
            yield {"event": [pickle.dumps(event)]}

    def events(self, number: int) -> Iterator[Event]:
        """Process a unit in a thread, and yield its events as they come, `REPORTS` of them at most."""
        unit, queue = self.units[number], SimpleQueue[Event]()
        last = Event(number, share=0.0)

        def tick(counts: Counts, share: float) -> None:
            nonlocal last
            last.counts.add(counts)
            if share >= last.share + 1 / REPORTS:
                queue.put(Event(number, last.counts, share))
                last = Event(number, share=share)

        def process() -> None:
            problem: str | BlipError
            try:
                problem = self.problem or attempt(self.work, unit, self.folder.target(unit), tick)
            except EnvironmentProblem as error:
                problem = error
            queue.put(Event(number, last.counts, problem=problem))

        with ThreadPoolExecutor(1) as pool:
            pool.submit(process)
            while (event := queue.get()).problem is None:
                yield event
        yield event


def give_up(number: int) -> Iterator[Event]:
    """Yield the events of a unit that makes its processes crash: one more than any of them has reported."""
    yield from (Event(number, share=0.0) for _ in range(REPORTS))
    yield Event(number, problem=f"the process that worked on it was lost {ATTEMPTS} times")
