"""A limit on the pixels that all threads of a process decode at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from blip_lite.fork import notify_after_fork

_PIXELS_AT_ONCE = 100_000_000  # of all threads together; a larger image is decoded alone


class PixelBudget:
    """Limits the pixels that threads decode at the same time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.after_fork()
        notify_after_fork(self)

    def after_fork(self) -> None:
        """Start from nothing: a forked process has none of the threads that decode."""
        self.used, self.changed = 0, threading.Condition()

    @contextmanager
    def admit(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` fit beside those of other threads; more than the limit wait until they are alone."""
        with self.changed:
            self.changed.wait_for(lambda: self.used == 0 or self.used + pixels <= self.limit)
            self.used += pixels
        try:
            yield
        finally:
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


decoding = PixelBudget(_PIXELS_AT_ONCE)
