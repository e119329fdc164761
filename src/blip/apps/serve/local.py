"""The engine on one machine: batches from async-batcher, worker processes from `concurrent.futures`.

Why not a whole batching server: docs/decisions/0012-serving.md.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import uvicorn
from async_batcher.batcher import AsyncBatcher
from starlette.applications import Starlette

from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Card, Job, Outcome
from blip.apps.serve.models import Models
from blip.apps.serve.problems import Problem
from blip.apps.serve.settings import Settings
from blip_lite.errors import BlipError, CheckpointError, EnvironmentProblem, UsageError

POLL_SECONDS = 0.1  # between checks whether a worker is still alive
OVERTIME = 2.0  # a batch may take this many times the timeout of a request
KEEP_ALIVE = 75  # seconds; longer than clients keep theirs, or one may send into a connection that is being closed
FAILURES: dict[int, type[BlipError]] = {2: UsageError, 4: EnvironmentProblem}  # by exit code


class WorkerCrashed(Exception):
    """A worker process ended before it returned a result."""


class Worker:
    """A process with all models: an executor of its own, so that a crash fails only the batch inside."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._limit = OVERTIME * settings.timeout
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        others = multiprocessing.active_children()
        with _interrupts_blocked():
            self._loading = self._pool.submit(_load, settings, number)
        (self._process,) = [process for process in multiprocessing.active_children() if process not in others]

    def is_alive(self) -> bool:
        return self._process.is_alive()

    async def load(self) -> tuple[Card, ...]:
        """Load the models. Raises the BlipError of the process, or WorkerCrashed."""
        with self._crash_reported():
            return await asyncio.wrap_future(self._loading)

    async def run(self, jobs: list[Job]) -> list[Outcome]:
        """Run a batch. Raises WorkerCrashed if the process ends, or is ended because it takes too long."""
        with self._crash_reported():
            running = asyncio.get_running_loop().run_in_executor(self._pool, _run, jobs)
            done, _ = await asyncio.wait([running], timeout=self._limit)
            if not done:
                print(f"a batch took more than {self._limit:g} s; restarting the worker", file=sys.stderr, flush=True)
                self._process.kill()
            return await running

    def close(self) -> None:
        self._process.kill()
        self._pool.shutdown(cancel_futures=True)

    @contextmanager
    def _crash_reported(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool:
            self._process.join()
            raise WorkerCrashed(f"exit code {self._process.exitcode}") from None


class LocalEngine(AsyncBatcher[tuple[Job, float], Outcome]):  # type: ignore[misc]
    """Batches of queued jobs, each run by the next idle worker."""

    def __init__(self, settings: Settings) -> None:
        size = max(2, settings.max_batch)  # the least that the batcher takes; see `submit` for 1
        super().__init__(max_batch_size=size, max_queue_time=settings.max_wait, concurrency=settings.workers)
        self.cards: tuple[Card, ...] = ()
        self.failure: Exception | None = None  # the models cannot be loaded
        self._settings = settings
        self._workers: dict[int, Worker] = {}
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()

    def ready(self) -> bool:
        return any(worker.is_alive() for worker in self._workers.values())

    async def submit(self, job: Job, seconds: float) -> Outcome:
        queued = (job, time.monotonic() + seconds)
        if self._settings.max_batch == 1:
            (outcome,) = await self.process_batch([queued])
        else:
            outcome = await asyncio.shield(self.process(queued))  # cancelled inside a batch, it would break the batch
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def process_batch(self, batch: list[tuple[Job, float]]) -> list[Outcome | Problem]:
        """The outcome of each job, or the problem that it is lost."""
        while not (worker := await self._idle.get()).is_alive():
            pass
        now = time.monotonic()
        jobs = [job for job, expires in batch if expires > now]
        try:
            outcomes = iter(await worker.run(jobs) if jobs else [])
        except WorkerCrashed:
            return [Problem("worker_lost", "the worker crashed; try again", retry_after=5) for _ in batch]
        self._idle.put_nowait(worker)
        late = Problem("timeout", "the request waited too long for a worker")
        return [next(outcomes) if expires > now else late for _, expires in batch]

    async def keep_worker(self, number: int) -> None:
        """Start a worker process, and another whenever it has ended."""
        while self.failure is None:
            worker = self._workers[number] = Worker(self._settings, number)
            try:
                self.cards = await worker.load()
                self._idle.put_nowait(worker)
            except WorkerCrashed as error:
                if not self.cards:
                    hint = "if memory is short, use smaller models or fewer --workers"
                    self.failure = EnvironmentProblem(f"a worker crashed while loading the models ({error}); {hint}")
            except Exception as error:
                self.failure = error
            while worker.is_alive():
                await asyncio.sleep(POLL_SECONDS)
            worker.close()

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.keep_worker(number)) for number in range(self._settings.workers)]
        yield
        for task in tasks:
            task.cancel()
        await self.stop(force=True)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


class Server(uvicorn.Server):
    """Listens. Stops by itself when the models cannot be loaded; refuses new work while it stops.

    By h11, which takes 64 kB of headers; httptools takes any number.
    """

    def __init__(self, app: Starlette, settings: Settings, engine: LocalEngine) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=2048,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=int(settings.timeout) + 1,
            )
        )
        self.interrupted = False
        self._service, self._engine = app.state.service, engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return self._engine.failure is not None or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.draining = True
        await super().shutdown(sockets)


def run(settings: Settings, listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer the requests inside.

    Raises the error of a worker that cannot load its models, and KeyboardInterrupt after Ctrl-C.
    """
    engine = LocalEngine(settings)
    server = Server(build_app(settings, engine, engine.lifespan), settings, engine)
    # before and after uvicorn's own, which are the same: it raises the signal once more at its end
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        engine.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if engine.failure is not None:
        raise engine.failure
    if server.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; one that is started inside never sees it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_models: Models  # of a worker process


def _load(settings: Settings, number: int) -> tuple[Card, ...]:
    global _models
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the server ends this one
    threading.Thread(target=_end_with_server, daemon=True).start()
    try:
        _models = Models.load(settings, number)
    except BlipError as error:  # as one that can be pickled
        raise FAILURES.get(error.exit_code, CheckpointError)(str(error)) from None
    return _models.cards()


def _run(jobs: Sequence[Job]) -> list[Outcome]:
    return _models.run(jobs)


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    assert server is not None, "runs in a worker process"
    server.join()
    os._exit(1)
