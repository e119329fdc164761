"""Work on the units of an output folder in a pool of processes that hold the models, on Ray.

The units are a Ray dataset, and `map_batches` with an actor pool does the work. Scheduling and transport are Ray's, and
so are retries: a lost process is started again, on another machine if necessary, and its unit is done from the start.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from blip.engine.folder import OutputFolder
from blip.engine.progress import Progress
from blip.engine.units import Unit
from blip.engine.work import Counts, Work, attempt
from blip.io.extras import require_extras
from blip_lite.errors import BlipError, EnvironmentProblem

ATTEMPTS = 4  # at a unit whose process is lost
OBJECT_STORE = 100_000_000  # bytes, of a cluster on this machine; only names and counts pass through it
# read when Ray is imported or started: no usage report to its makers, no lines of its processes among ours
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


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
    with cluster(address) as ray:
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
        remaining = dict(enumerate(units))
        for event in _events(ray, events):
            if isinstance(event.problem, BlipError):
                raise event.problem
            progress.update(units[event.unit], event.counts, event.share)
            if event.problem is not None:
                progress.finish(remaining.pop(event.unit), event.problem)
        for unit in remaining.values():
            progress.finish(unit, f"the process that worked on it was lost, {ATTEMPTS} times")


@dataclass(frozen=True)
class Event:
    """Report of a process after a batch of a unit. `problem` is set by the last one: "", or why the unit failed."""

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
        """Process a unit, and yield an event after each batch of it.

        After a retry, Ray drops as many events as it has received before; so every attempt yields the same ones.
        """
        ray: Any = importlib.import_module("ray")
        (number,) = batch["unit"].tolist()
        if ray.get(self.attempts.begin.remote(number)) <= ATTEMPTS:
            for event in self.events(number):
                yield {"event": [pickle.dumps(event)]}

    def events(self, number: int) -> Iterator[Event]:
        """Process a unit in a thread, and yield its events as they come."""
        unit, queue = self.units[number], SimpleQueue[Event]()

        def tick(counts: Counts, share: float) -> None:
            queue.put(Event(number, counts, share))

        def process() -> None:
            problem: str | BlipError
            try:
                problem = self.problem or attempt(self.work, unit, self.folder.target(unit), tick)
            except EnvironmentProblem as error:
                problem = error
            queue.put(Event(number, problem=problem))

        with ThreadPoolExecutor(1) as pool:
            pool.submit(process)
            while (event := queue.get()).problem is None:
                yield event
        yield event


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster, which is started on this machine by default.

    A connection that the caller has opened is used and kept.
    """
    require_extras("--engine ray", "ray")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray: Any = importlib.import_module("ray")
    importlib.import_module("ray.data")
    if ray.is_initialized():
        with _settings(ray):
            yield ray
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    with _kept_signals(), _muted():
        try:
            ray.init(address, log_to_driver=False, configure_logging=False, **(local if address == "local" else {}))
        except Exception as error:  # Ray raises many kinds
            reason = " ".join(str(error).split())
            raise EnvironmentProblem(f"Ray cluster '{address}': cannot be used ({reason[:200]})") from error
    try:
        with _settings(ray):
            yield ray
    finally:
        ray.shutdown()


@contextmanager
def _settings(ray: Any) -> Iterator[None]:
    """Let Ray Data pass events on as they come, and print nothing."""
    context = ray.data.DataContext()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # bytes that are collected before they are passed on
    with ray.data.DataContext.current(context):
        yield


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep this program's handlers of signals, which Ray would replace."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        with suppress(ValueError):  # not in the main thread
            signal.signal(number, handler)


@contextmanager
def _muted() -> Iterator[None]:
    """Discard what libraries write to standard error."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
