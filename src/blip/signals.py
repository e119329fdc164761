"""Stop a running job on a signal, after its current step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from blip_lite.image_bytes import interrupt_pipes


@dataclass
class StopRequest:
    """`reason` is "" until a signal arrives, then "terminated" or "interrupted"."""

    reason: str = ""


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Let the first SIGTERM or Ctrl-C request a stop; the second one is handled as before.

    Only in the main thread; in other threads no handler is installed.
    """
    request = StopRequest()
    previous: dict[signal.Signals, Any] = {}
    reasons = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}

    def handle(number: int, frame: FrameType | None) -> None:
        request.reason = reasons[signal.Signals(number)]
        interrupt_pipes(True)
        signal.signal(number, previous[signal.Signals(number)])

    with suppress(ValueError):  # not in the main thread
        for number in reasons:
            previous[number] = signal.signal(number, handle)
    interrupt_pipes(False)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
