"""Estimate of the time that a run still needs."""

from __future__ import annotations

import time
from collections import deque


class Pace:
    """Durations of the last steps, and of the last evaluation with its checkpoint.

    pause: duration of an earlier evaluation, if known. The first step is left out as soon as there is another, since it
    includes the start of the readers.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self._last = time.monotonic()
        self._steps: deque[float] = deque(maxlen=50)
        self._pause = pause
        self._first = True

    def step(self) -> None:
        """A step has ended."""
        if self._first and self._steps:
            self._steps.clear()
            self._first = False
        self._steps.append(self._lap())

    def pause(self) -> None:
        """An evaluation, a checkpoint or both have ended."""
        self._pause = self._lap()

    def remaining(self, steps: int, pauses: int) -> float:
        """Return the seconds for further steps and evaluations."""
        mean = sum(self._steps) / len(self._steps) if self._steps else 0.0
        return steps * mean + pauses * self._pause

    def seconds_per_step(self) -> float:
        """Return the mean of the last steps."""
        return max(sum(self._steps) / max(len(self._steps), 1), 1e-9)

    def _lap(self) -> float:
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        return elapsed
