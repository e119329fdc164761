"""One worker process of the local engine: litserve's batching loop around our models."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty
from typing import Any

from litserve import LitAPI
from litserve.loops.simple_loops import BatchedLoop

from blip.apps.serve.jobs import Job
from blip.apps.serve.models import Models
from blip.apps.serve.settings import Settings
from blip_lite.errors import BlipError

PATH = "/job"  # litserve's name of the queue; nothing listens there
CARDS = b"cards"  # the request for what this worker serves
IDLE = 1.0  # seconds that an idle worker sleeps before it looks whether the server is still there
OVERTIME = 2.0  # times the timeout that a batch may take


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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the server ends this one
        try:
            self.models = Models.load(self.settings, int(os.environ.get("LITSERVE_WORKER_ID", "0")))
        except BlipError as error:
            self.failures.put((error.exit_code, str(error)))
            raise SystemExit(error.exit_code) from None
        except Exception:  # litserve would say nothing, and start another
            traceback.print_exc(file=sys.stderr)
            raise SystemExit(70) from None

    def decode_request(self, request: bytes) -> Job | None:
        return None if request == CARDS else pickle.loads(request)

    def batch(self, inputs: Sequence[Job | None]) -> Sequence[Job | None]:
        return inputs

    def predict(self, x: Sequence[Job | None]) -> list[Any]:
        with _at_most(OVERTIME * self.settings.timeout):
            outcomes = iter(self.models.run([job for job in x if job is not None]))
        return [self.models.cards() if job is None else next(outcomes) for job in x]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> bytes:
        return pickle.dumps(output)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Ends this process where the work inside takes longer: nobody waits for it any more, others wait behind it."""

    def end() -> None:
        print(f"a batch was not done after {seconds:g} s; its worker ends, another starts", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
