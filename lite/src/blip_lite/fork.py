"""Objects whose threads or locks do not survive `os.fork`: each is notified in the child before any other code runs."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class AfterFork(Protocol):
    """An object to be notified."""

    def after_fork(self) -> None:
        """Replace what was lost: locks may be held by threads that do not exist in this process."""
        ...


_objects: WeakSet[AfterFork] = WeakSet()


def notify_after_fork(instance: AfterFork) -> None:
    """Call `instance.after_fork` in each forked process, as long as the instance exists."""
    _objects.add(instance)


def _in_child() -> None:
    for instance in list(_objects):
        instance.after_fork()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_in_child)
