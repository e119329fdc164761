"""How much is taken in at once: images waiting, bytes buffered, bytes of one body."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager, suppress

from starlette.requests import Request
from starlette.types import Message

from blip.apps.serve.problems import Problem
from blip.apps.serve.settings import MEGABYTE, Settings

REMEMBERED = 65  # answers that the pace is taken from
DRAIN_SECONDS = 5.0


class Gate:
    """Counts what is inside; refuses with 429 and a time to try again what would not be answered in time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.jobs = self.buffered = 0
        self._working = 0  # jobs that are decoded or with the engine
        self._answers: deque[float] = deque(maxlen=REMEMBERED)  # times of the latest, since there is work

    @contextmanager
    def inside(self, jobs: int) -> Iterator[None]:
        """Holds places for jobs until they are answered."""
        if self.jobs + jobs > self.settings.queue:
            raise self.busy(f"{self.jobs} images are waiting, at most {self.settings.queue} may")
        if self.jobs and self.wait(jobs) > self.settings.timeout:
            raise self.busy(f"{self.jobs} images are waiting, and no more can be answered in time")
        self.jobs += jobs
        try:
            yield
        finally:
            self.jobs -= jobs

    def answered(self) -> None:
        """Learns the pace from an answer."""
        self._answers.append(time.monotonic())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around the work on a job: time in which there is none, as while a slow client sends, makes no slow pace."""
        if not self._working:
            self._answers.clear()
            self._answers.append(time.monotonic())
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1

    def wait(self, jobs: int = 0) -> float:
        """Seconds until what is inside, and `jobs` more, will be answered, as things go; 0 where nothing is known."""
        if len(self._answers) < 2 or not self._working:
            return 0.0
        pace = (time.monotonic() - self._answers[0]) / (len(self._answers) - 1)
        return (self.jobs + jobs) * pace

    def busy(self, why: str) -> Problem:
        return Problem("busy", f"{why}; try again later", retry_after=min(self.wait() / 2, 60))

    async def body(self, request: Request, stack: ExitStack) -> AsyncGenerator[bytes, None]:
        """A body as it arrives; its bytes count as buffered until the stack is left. Problem where it is too large."""
        limit, seen = self.settings.max_upload, 0
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        async for part in request.stream():
            seen += len(part)
            if seen > limit:
                raise _too_large(limit)
            if self.buffered + len(part) > self.settings.max_buffered:
                raise self.busy(f"bodies of {self.buffered / MEGABYTE:.0f} MB are in memory")
            self.buffered += len(part)
            stack.callback(self._forget, len(part))
            yield part

    def _forget(self, size: int) -> None:
        self.buffered -= size


class BodyTracker:
    """A request's `receive` that knows whether the body has ended, which `receive` itself waits for in vain."""

    def __init__(self, request: Request) -> None:
        self._receive, self.ended = request.receive, False
        self.request = Request(request.scope, self)

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self, limit: int) -> None:
        """Throws away the rest of a body, within reason, so that a client that still sends can read the answer."""
        seen = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.ended and seen <= limit:
                    seen += len((await self()).get("body", b""))


def _too_large(limit: int) -> Problem:
    return Problem("too_large", f"body of more than {limit / MEGABYTE:g} MB, the most that this server takes")
