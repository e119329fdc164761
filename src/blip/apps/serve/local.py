"""The engine on one machine: litserve's worker processes and batching loop, under our application.

litserve's own `run` is not used: it has no bounded queue, leaves the requests of a dead worker unanswered, knows
three addresses to listen on (docs/decisions/0012-serving.md).
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from queue import Empty
from typing import Any

import uvicorn
from litserve import LitAPI, LitServer
from litserve.loops.simple_loops import BatchedLoop
from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus, wrap_litserve_start
from starlette.applications import Starlette

from blip.apps.serve.app import build_app
from blip.apps.serve.jobs import Card, Job, Outcome
from blip.apps.serve.models import Models
from blip.apps.serve.problems import Problem
from blip.apps.serve.settings import Settings
from blip_lite.errors import BlipError, CheckpointError, EnvironmentProblem

PATH = "/job"  # litserve's name of the queue; nothing listens there
IDLE = 1.0  # seconds that an idle worker sleeps before it looks whether the server is still there
LOOK = 0.1  # seconds between looks at workers that start
WATCH = 0.5  # seconds between looks at workers that work
KEEP_ALIVE = 75  # seconds; longer than clients keep theirs, or one may send into a connection that is being closed
CARDS = b"cards"


class PatientLoop(BatchedLoop):  # type: ignore[misc]
    """litserve's loop, asleep while there is nothing to do: its own asks a thousand times a second."""

    def get_batch_requests(self, lit_api: LitAPI, request_queue: Any, transport: Any) -> tuple[list[Any], list[Any]]:
        while True:
            with suppress(Empty):
                first = request_queue.get(timeout=IDLE)
                found: tuple[list[Any], list[Any]] = super().get_batch_requests(
                    lit_api, _After(first, request_queue), transport
                )
                return found
            server = multiprocessing.parent_process()
            if server is None or not server.is_alive():  # it was killed
                os._exit(1)


class _After:
    """A queue with one request before it."""

    def __init__(self, first: Any, queue: Any) -> None:
        self._first, self._queue = [first], queue

    def get(self, timeout: float) -> Any:
        return self._first.pop() if self._first else self._queue.get(timeout=timeout)

    def get_nowait(self) -> Any:
        return self._first.pop() if self._first else self._queue.get_nowait()


class Worker(LitAPI):  # type: ignore[misc]
    """One process with all models. Jobs and outcomes are pickles, which the queues' process passes on unread."""

    def __init__(self, settings: Settings, failures: Any) -> None:
        super().__init__(settings.max_batch, settings.max_wait, api_path=PATH, loop=PatientLoop())
        self.settings, self.failures = settings, failures

    def setup(self, device: str) -> None:
        logging.getLogger("litserve").setLevel(logging.CRITICAL)  # late requests are answered, not logged
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the server ends this one
        try:
            self.models = Models.load(self.settings, int(os.environ.get("LITSERVE_WORKER_ID", "0")))
        except BlipError as error:
            self.failures.put(str(error))
            raise SystemExit(error.exit_code) from None

    def decode_request(self, request: bytes) -> Job | None:
        return None if request == CARDS else pickle.loads(request)

    def batch(self, inputs: Sequence[Job | None]) -> Sequence[Job | None]:
        return inputs

    def predict(self, x: Sequence[Job | None]) -> list[Any]:
        outcomes = iter(self.models.run([job for job in x if job is not None]))
        return [self.models.cards() if job is None else next(outcomes) for job in x]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> bytes:
        return pickle.dumps(output)


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
    """Listens. Stops by itself when the models cannot be loaded; refuses new work while it stops."""

    def __init__(self, app: Starlette, settings: Settings, engine: LocalEngine, failures: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_level="warning", access_log=False, server_header=False, backlog=2048,
                timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=int(settings.timeout) + 1,
            )
        )  # fmt: skip
        self.failure: BlipError | None = None
        self._service, self._engine, self._failures = app.state.service, engine, failures

    async def on_tick(self, counter: int) -> bool:
        if not self._failures.empty():
            self.failure = CheckpointError(self._failures.get())
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

    Raises CheckpointError when a model does not load, EnvironmentProblem when the queue's process has ended.
    """
    logging.getLogger("litserve").setLevel(logging.CRITICAL)
    multiprocessing.set_start_method("spawn", force=True)  # no process may keep the port open
    failures: Any = multiprocessing.SimpleQueue()
    litserve = LitServer(
        Worker(settings, failures), accelerator="cpu", devices=1, workers_per_device=settings.workers,
        timeout=settings.timeout, restart_workers=True,
    )  # fmt: skip
    litserve.response_buffer = _Answers()
    engine = LocalEngine(litserve)
    app = build_app(settings, engine, _lifespan(litserve, engine))
    app.response_queue_id = 0  # type: ignore[attr-defined] # where litserve's lifespan looks for it
    server = Server(app, settings, engine, failures)
    try:
        with wrap_litserve_start(litserve, worker_monitor=True):
            before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it once more at its end
            server.run(sockets=[listening])
            signal.signal(signal.SIGTERM, before)
    except (OSError, EOFError):  # of litserve's tidying up, where nothing is left to tidy
        if server.failure is None:
            raise
    if server.failure is not None:
        raise server.failure


def _lifespan(litserve: LitServer, engine: LocalEngine) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with litserve.lifespan(app):
            tasks = [asyncio.create_task(engine.started()), asyncio.create_task(engine.watch())]
            yield
            for task in tasks:
                task.cancel()

    return lifespan
