"""The engine on one machine: litserve's worker processes and batching loop, under our application.

litserve's own `run` is not used: it has no bounded queue, leaves the requests of a dead worker unanswered, knows
three addresses to listen on (docs/decisions/0012-serving.md).
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import pickle
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from litserve import LitServer
from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus, wrap_litserve_start
from starlette.applications import Starlette

from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Card, Job, Outcome
from blip.apps.serve.problems import Problem
from blip.apps.serve.settings import Settings
from blip.apps.serve.worker import CARDS, PATH, Worker
from blip_lite.errors import BlipError, CheckpointError, EnvironmentProblem, UsageError

LOOK = 0.1  # seconds between looks at workers that start
WATCH = 0.5  # seconds between looks at workers that work
KEEP_ALIVE = 75  # seconds; longer than clients keep theirs, or one may send into a connection that is being closed
FAILURES: dict[int, type[BlipError]] = {2: UsageError, 4: EnvironmentProblem}  # by exit code


class _Answers(dict[str, ResponseBufferItem]):
    """Requests that wait, which litserve's thread that watches the workers goes through while others come and go."""

    def items(self) -> Any:
        return list(super().items())


class _Event(asyncio.Event):
    """May be set by that thread."""

    def __init__(self) -> None:
        super().__init__()
        self._asked_in = asyncio.get_running_loop()

    def set(self) -> None:
        self._asked_in.call_soon_threadsafe(super().set)


class LocalEngine:
    """Jobs into litserve's queue and outcomes out of its buffer."""

    def __init__(self, server: LitServer) -> None:
        self.cards: tuple[Card, ...] = ()
        self.broken = False  # beyond repair: the process that passes messages on has ended
        self._server = server

    def ready(self) -> bool:
        return any(process.is_alive() for process in self._server.inference_workers)

    async def submit(self, job: Job, seconds: float) -> Outcome:
        found: Outcome = await self._ask(pickle.dumps(job))
        return found

    def ended(self) -> int | None:
        """The exit code of a worker that has ended, if one has and no other has taken its place."""
        return next((process.exitcode for process in self._server.inference_workers if not process.is_alive()), None)

    async def started(self) -> None:
        """Waits for a worker and learns what it serves."""
        while WorkerSetupStatus.READY not in self._server.workers_setup_status.values():
            await asyncio.sleep(LOOK)
        while not self.cards:
            with suppress(Problem):  # that worker has ended; another starts
                self.cards = await self._ask(CARDS)

    async def watch(self) -> None:
        """Answers for workers that end. Of theirs litserve knows only what they have confirmed; the rest is here."""
        known = self._workers()
        while not self.broken:
            await asyncio.sleep(WATCH)
            try:
                await asyncio.to_thread(self._server.litapi_request_queues[PATH].qsize)
            except (OSError, EOFError):
                self.broken = True
            if self.broken or self._workers() != known:
                known = self._workers()
                self._lose(everything=self.broken)

    def _workers(self) -> list[int]:
        return [process.pid for process in self._server.inference_workers]

    def _lose(self, *, everything: bool) -> None:
        for item in list(self._server.response_buffer.values()):
            if not item.event.is_set() and (everything or item.worker_id is None):
                item.response = (None, LitAPIStatus.ERROR)
                item.event.set()

    async def _ask(self, message: bytes) -> Any:
        name, buffer = str(uuid.uuid4()), self._server.response_buffer
        item = buffer[name] = ResponseBufferItem(_Event())
        try:
            queue = self._server.litapi_request_queues[PATH]
            with suppress(OSError, EOFError):  # `watch` notices that too
                await asyncio.to_thread(queue.put, (0, name, time.monotonic(), message))
            await item.event.wait()
        finally:
            buffer.pop(name, None)
        response, status = item.response
        if status == LitAPIStatus.OK:
            return pickle.loads(response)
        if getattr(response, "status_code", None) == 504:
            raise Problem("timeout", "waited too long for its turn")
        raise Problem("worker_lost", "the process that worked on it has ended; try again", retry_after=5)


class Server(uvicorn.Server):
    """Listens. Stops by itself when the models cannot be loaded; refuses new work while it stops.

    By h11, which takes 64 kB of headers; httptools takes any number.
    """

    def __init__(self, app: Starlette, settings: Settings, engine: LocalEngine, failures: Any) -> None:
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
        self.failure: BlipError | None = None
        self._service, self._engine, self._failures = app.state.service, engine, failures

    async def on_tick(self, counter: int) -> bool:
        if not self._failures.empty():
            code, message = self._failures.get()
            self.failure = FAILURES.get(code, CheckpointError)(message)
        elif not self._engine.cards and (ended := self._engine.ended()) is not None:
            hint = "if memory is short, use smaller models or fewer --workers"
            self.failure = EnvironmentProblem(f"a process that loads the models has ended (exit code {ended}); {hint}")
        elif self._engine.broken:
            self.failure = EnvironmentProblem("the process that passes messages to the models has ended; start again")
        if self.failure is not None:
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.draining = True
        await super().shutdown(sockets)


def run(settings: Settings, listening: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what is inside.

    Raises what a worker raised that cannot load its models; EnvironmentProblem where it has ended without a word, or
    the queue's process has.
    """
    logging.getLogger("litserve").setLevel(logging.CRITICAL)
    multiprocessing.set_start_method("spawn", force=True)  # no process may keep the port open
    failures: Any = multiprocessing.SimpleQueue()
    litserve = LitServer(
        Worker(settings, failures),
        accelerator="cpu",
        devices=1,
        workers_per_device=settings.workers,
        timeout=settings.timeout,
        restart_workers=True,
    )
    litserve.response_buffer = _Answers()
    engine = LocalEngine(litserve)
    app = build_app(settings, engine, _lifespan(litserve, engine))
    app.response_queue_id = 0  # type: ignore[attr-defined] # where litserve's lifespan looks for it
    server, interrupted = Server(app, settings, engine, failures), False
    try:
        _hold_interrupts(True)  # also for workers that start later: litserve's thread that starts them does so now
        with wrap_litserve_start(litserve, worker_monitor=True):
            try:
                _hold_interrupts(False)
                # uvicorn raises it once more at its end; were it ignored, so would it be by workers that start then
                before = signal.signal(signal.SIGTERM, server.handle_exit)
                server.run(sockets=[listening])
                signal.signal(signal.SIGTERM, before)
            except KeyboardInterrupt:  # kept until all is tidied up, which may fail and hide it
                interrupted = True
    except (OSError, EOFError):  # of litserve's tidying up, where nothing is left to tidy
        if server.failure is None and not interrupted:
            raise
    if server.failure is not None:
        raise server.failure
    if interrupted:
        raise KeyboardInterrupt


def _hold_interrupts(hold: bool) -> None:
    """Ctrl-C reaches all processes of a terminal. One started while it is held never sees it, whatever it imports."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK, {signal.SIGINT})


def _lifespan(litserve: LitServer, engine: LocalEngine) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with litserve.lifespan(app):
            tasks = [asyncio.create_task(engine.started()), asyncio.create_task(engine.watch())]
            yield
            for task in tasks:
                task.cancel()

    return lifespan
