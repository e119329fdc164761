"""Admission of requests, and the minimum rate of their bodies."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager

from starlette.requests import ClientDisconnect, Request

from blip.apps.serve.jobs import Problem
from blip.apps.serve.settings import MEGABYTE, Settings

RETRY_SECONDS = 2.0  # suggested to clients of a server whose memory for bodies is full
PACE_WINDOW = 65  # latest responses that the pace is computed from


class AdmissionControl:
    """Counts jobs in flight; refuses with 429 and a retry time what cannot be answered in time.

    A request counts as soon as its body has arrived, so that slow clients do not keep out others.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.jobs = 0
        self._working = 0  # jobs in the decoder or the engine
        self._answered: deque[float] = deque(maxlen=PACE_WINDOW)  # times of responses, since there is work

    @contextmanager
    def admit(self, jobs: int) -> Iterator[None]:
        """Count jobs as in flight. Raises Problem (429)."""
        self.check(jobs)
        self.jobs += jobs
        try:
            yield
        finally:
            self.jobs -= jobs

    def check(self, jobs: int) -> None:
        """Raise Problem (429) if no more jobs can be admitted."""
        if self.jobs + jobs > self.settings.queue:
            raise self.busy(f"{self.jobs} of at most {self.settings.queue} images are in flight")
        if self.jobs and self.expected_wait(jobs) > self.settings.timeout:
            raise self.busy(f"{self.jobs} images are in flight; more cannot be answered in time")

    def record_answer(self) -> None:
        """Update the pace."""
        self._answered.append(time.monotonic())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Mark that a job is being worked on: idle time, as while a slow client sends, does not count as pace."""
        if not self._working:
            self._answered.clear()
            self._answered.append(time.monotonic())
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1

    def expected_wait(self, jobs: int = 0) -> float:
        """Seconds until all jobs in flight, and `jobs` more, are answered; 0 if the pace is unknown."""
        if len(self._answered) < 2 or not self._working:
            return 0.0
        pace = (time.monotonic() - self._answered[0]) / (len(self._answered) - 1)
        return (self.jobs + jobs) * pace

    def busy(self, reason: str) -> Problem:
        return Problem("busy", f"{reason}; try again later", retry_after=min(self.expected_wait() / 2, 60))


class BodyReader:
    """Reads bodies within limits: size, time, rate, and the memory of all of them together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.buffered = 0  # bytes of all bodies in memory

    async def read(self, request: Request, stack: ExitStack) -> AsyncGenerator[bytes, None]:
        """Chunks of a body; they count as buffered until the stack is closed. Raises Problem (408, 413, 429)."""
        limit, size = self.settings.max_upload, 0
        too_large = Problem("too_large", f"body of more than {limit / MEGABYTE:g} MB, the limit of this server")
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise too_large
        async for chunk in self._at_minimum_rate(request):
            size += len(chunk)
            if size > limit:
                raise too_large
            if self.buffered + len(chunk) > self.settings.max_buffered:
                reason = f"request bodies of {self.buffered / MEGABYTE:.0f} MB are in memory; try again later"
                raise Problem("busy", reason, retry_after=RETRY_SECONDS)
            self.buffered += len(chunk)
            stack.callback(self._release, len(chunk))
            yield chunk

    async def _at_minimum_rate(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Chunks of a body. Raises Problem (408) if they arrive too slowly, ClientDisconnect.

        A client may fall behind the minimum rate by `stall` seconds; faster bytes make up for at most as much.
        """
        settings, loop = self.settings, asyncio.get_running_loop()
        end = loop.time() + settings.timeout
        deadline = loop.time() + settings.stall
        more = True
        while more:
            try:
                async with asyncio.timeout_at(min(deadline, end)):
                    message = await request.receive()
            except TimeoutError:
                limit = f"at least {settings.min_rate:g} bytes per second, and all within {settings.timeout:g} s"
                raise Problem("slow_body", f"the body arrives too slowly; must be {limit}") from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            deadline = min(deadline + len(chunk) / settings.min_rate, loop.time() + settings.stall)
            more = message.get("more_body", False)
            if chunk:
                yield chunk

    def _release(self, size: int) -> None:
        self.buffered -= size
