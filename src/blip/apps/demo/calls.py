"""Computations in progress, so that the process can end without interrupting them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_changed = threading.Condition()
_running = 0


@contextmanager
def running() -> Iterator[None]:
    """Count a computation."""
    global _running
    with _changed:
        _running += 1
    try:
        yield
    finally:
        with _changed:
            _running -= 1
            _changed.notify_all()


def wait_until_idle(seconds: float) -> bool:
    """Wait until no computation is in progress; returns False if that takes longer than `seconds`."""
    with _changed:
        return _changed.wait_for(lambda: not _running, seconds)
