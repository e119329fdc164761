"""When somebody asks the work to stop: the running step is finished first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Stop:
    """`reason` is "" until a signal came: then "terminated" or "interrupted"."""

    reason: str = ""


@contextmanager
def stopping() -> Iterator[Stop]:
    """The first SIGTERM or Ctrl-C asks the work inside to stop at its next end; the next one does what it always does.

    In another thread than the main one signals are left to whoever has that.
    """
    stop = Stop()
    before: dict[signal.Signals, Any] = {}
    reasons = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.reason = reasons[signal.Signals(number)]
        signal.signal(number, before[signal.Signals(number)])

    with suppress(ValueError):  # not in the main thread
        for number in reasons:
            before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
