"""Processor time of parts of a program, by replacing their functions with timed ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

Parts = Mapping[str, Sequence[tuple[Any, str]]]  # part -> its functions: a class or module, and a name in it


class Stopwatch:
    """Seconds by part, of all threads; the time of nested parts is subtracted from the outer one.

    Threads that torch starts for an operation are not counted: run on one thread.
    """

    def __init__(self, parts: Parts) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)
        self._lock, self._thread = threading.Lock(), threading.local()

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, start = getattr(self._thread, "nested", 0.0), time.thread_time()
            self._thread.nested = 0.0
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.thread_time() - start
                with self._lock:
                    self.seconds[part] += seconds - self._thread.nested
                self._thread.nested = outer + seconds

        return timed


@contextmanager
def stopwatch(parts: Parts, rest: str) -> Iterator[dict[str, float]]:
    """Yield seconds by part, complete at the end; `rest` is the time of the process outside of all parts."""
    with ExitStack() as stack:
        watch = Stopwatch(parts)
        for part, functions in parts.items():
            for owner, name in functions:
                stack.enter_context(patch.object(owner, name, watch.wrap(part, getattr(owner, name))))
        start = time.process_time()
        yield watch.seconds
        total = time.process_time() - start
        watch.seconds[rest] = total - sum(watch.seconds.values())
