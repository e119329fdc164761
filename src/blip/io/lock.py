"""Locks of outputs, so that two runs never write to the same file or folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from blip.io.atomic import writing
from blip_lite.errors import UsageError


@contextlib.contextmanager
def exclusive(target: str | os.PathLike[str], *, folder: bool = False, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output, from before its existence is checked until it is complete.

    Raises `UsageError` if another run, on any machine that shares the disk, holds it after `wait` seconds. The lock is
    the file `.NAME.lock` beside `target`; with `folder`, it is `.lock` in the folder `target`, which is created. It is
    removed at the end; of a killed process an unlocked file remains, which the next run takes over. Devices and pipes
    are not locked. A lock must not be taken twice by one process.
    """
    path = Path(os.path.realpath(target))  # links to one file share its lock
    if is_device(path):
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(path / ".lock" if folder else path.with_name(_name(path.name)))
    with writing(target):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise UsageError(
                f"{target}: another run is writing to it; wait until it has ended, or choose another output"
            ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a run that waits for the removed file tries again with a new one
            os.unlink(lock.lock_file)
        lock.release()


def is_device(path: Path) -> bool:
    """Whether a path is a device or pipe, which exists already and is written in place."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _name(target: str) -> str:
    """Return the name of a target's lock file; a name has at most 255 bytes."""
    data = os.fsencode(target)
    return f".{target if len(data) <= 200 else hashlib.sha256(data).hexdigest()}.lock"
