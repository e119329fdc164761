"""The engine on one machine: batches by async-batcher, worker processes by `concurrent.futures`.

Measurements against batching servers: docs/decisions/0012-serving.md.
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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import resource_tracker
from types import FrameType

import uvicorn
from async_batcher.batcher import AsyncBatcher
from starlette.applications import Starlette

from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Job, JobResult, ModelInfo, Problem
from blip.apps.serve.models import Models
from blip.apps.serve.protocol import Protocol
from blip.apps.serve.settings import Settings
from blip_lite.errors import BlipError, CheckpointError, EnvironmentProblem, UsageError

POLL_SECONDS = 0.1  # between checks whether a worker is alive
OVERTIME = 2.0  # maximum duration of a batch, as a multiple of the request timeout
MAX_OPEN_FILES = 16_384
KEEP_ALIVE = 75  # seconds; longer than clients keep idle connections, so that none is closed just as it is used
ERRORS: dict[int, type[BlipError]] = {2: UsageError, 4: EnvironmentProblem}  # by exit code


class Worker:
    """A process with all models, in an executor of its own, so that a crash fails only the batch it is running."""

    def __init__(self, settings: Settings, number: int) -> None:
        self._limit = OVERTIME * settings.timeout
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        others = multiprocessing.active_children()
        with _interrupts_blocked():
            self._loading = self._pool.submit(_load, settings, number)
        (self._process,) = [process for process in multiprocessing.active_children() if process not in others]

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def exit_code(self) -> int | None:
        """Exit code of a crashed process; its executor collects it in another thread."""
        self._pool.shutdown()
        return self._process.exitcode

    async def load(self) -> tuple[ModelInfo, ...]:
        """Wait for the models. Raises the BlipError of the process, or BrokenProcessPool if it crashes."""
        return await asyncio.wrap_future(self._loading)

    async def run(self, jobs: list[Job]) -> list[JobResult]:
        """Run a batch. Raises BrokenProcessPool if the process crashes, or is killed because it takes too long."""
        running = asyncio.get_running_loop().run_in_executor(self._pool, _run, jobs)
        done, _ = await asyncio.wait([running], timeout=self._limit)
        if not done:
            print(f"a batch took more than {self._limit:g} s; restarting the worker", file=sys.stderr, flush=True)
            self._process.kill()
        return await running

    def close(self) -> None:
        self._process.kill()
        self._pool.shutdown(cancel_futures=True)


class LocalEngine(AsyncBatcher[tuple[Job, float], JobResult]):  # type: ignore[misc]
    """Batches of queued jobs, each with its time of expiry, run by the next idle worker."""

    def __init__(self, settings: Settings) -> None:
        size = max(2, settings.max_batch)  # the batcher's minimum; see `submit` for 1
        super().__init__(max_batch_size=size, max_queue_time=settings.max_wait, concurrency=settings.workers)
        self.models: tuple[ModelInfo, ...] = ()
        self.failure: Exception | None = None  # why the models cannot be loaded
        self._settings = settings
        self._workers: dict[int, Worker] = {}
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()

    def ready(self) -> bool:
        return any(worker.is_alive() for worker in self._workers.values())

    async def submit(self, job: Job, seconds: float) -> JobResult:
        item = (job, time.monotonic() + seconds)
        if self._settings.max_batch == 1:
            (result,) = await self.process_batch([item])
        else:
            result = await asyncio.shield(self.process(item))  # a cancelled item would fail its batch
        if isinstance(result, Problem):
            raise result
        return result

    async def process_batch(self, batch: list[tuple[Job, float]]) -> list[JobResult | Problem]:
        """The result of each job, or the reason why there is none. Called by the batcher."""
        while not (worker := await self._idle.get()).is_alive():
            pass
        now = time.monotonic()
        jobs = [job for job, expiry in batch if expiry > now]
        try:
            results = iter(await worker.run(jobs) if jobs else [])
        except BrokenProcessPool:
            return [Problem("worker_lost", "the worker crashed; try again", retry_after=5) for _ in batch]
        self._idle.put_nowait(worker)
        expired = Problem("timeout", "the request waited too long for a worker")
        return [next(results) if expiry > now else expired for _, expiry in batch]

    async def keep_worker(self, number: int) -> None:
        """Start a worker, and another one whenever it has ended."""
        while self.failure is None:
            worker = self._workers[number] = Worker(self._settings, number)
            try:
                self.models = await worker.load()
                self._idle.put_nowait(worker)
            except BrokenProcessPool:
                if not self.models:
                    reason = f"a worker crashed while loading the models (exit code {worker.exit_code()})"
                    hint = "if memory is short, use smaller models or fewer --workers"
                    self.failure = EnvironmentProblem(f"{reason}; {hint}")
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
    """Stops if the models cannot be loaded, and refuses new work while it stops."""

    def __init__(self, app: Starlette, settings: Settings, engine: LocalEngine) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=2048,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=2 * int(settings.timeout) + 1,  # for a body and for its answer
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


def run(settings: Settings, listening: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer the requests in flight.

    Raises the error of a worker that cannot load its models, and KeyboardInterrupt after Ctrl-C.

    announce: called once signals are handled. Before, Ctrl-C raises KeyboardInterrupt anywhere, also in callbacks of
    the garbage collector and of imports, which lose it.
    """
    engine = LocalEngine(settings)
    server = Server(build_app(settings, engine, engine.lifespan), settings, engine)
    # uvicorn installs the same handlers while it runs; these are for signals before and after
    previous = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    _allow_many_connections()
    try:
        announce()
        server.run(sockets=[listening])
    finally:
        engine.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if engine.failure is not None:
        raise engine.failure
    if server.interrupted:
        raise KeyboardInterrupt


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1024: slow clients hold connections for a while."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; one that is started inside never sees it."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it unblocks the signal when it starts, which the first process would else do
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


_models: Models  # of this process, if it is a worker


def _load(settings: Settings, number: int) -> tuple[ModelInfo, ...]:
    global _models
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows
    threading.Thread(target=_end_with_server, daemon=True).start()
    try:
        _models = Models.load(settings, number)
    except BlipError as error:  # as one that can be pickled
        raise ERRORS.get(error.exit_code, CheckpointError)(str(error)) from None
    return _models.info()


def _run(jobs: Sequence[Job]) -> list[JobResult]:
    return _models.run(jobs)


def _end_with_server() -> None:
    server = multiprocessing.parent_process()
    assert server is not None, "runs in a worker process"
    server.join()
    os._exit(1)
