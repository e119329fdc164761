"""Locks of outputs and of temporary folders: two runs never write to one target, and none removes what is in use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blip.io.disk import is_device, writing
from blip_lite.errors import UsageError

_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)  # see blip.io.atomic


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
    remove_abandoned(path.parent)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a run that waits for the removed file tries again with a new one
            os.unlink(lock.lock_file)
        lock.release()


def _name(target: str) -> str:
    """Return the name of a target's lock file; a name has at most 255 bytes."""
    data = os.fsencode(target)
    return f".{target if len(data) <= 200 else hashlib.sha256(data).hexdigest()}.lock"


@dataclass
class FolderLock:
    """The lock of a temporary folder; not held where the system cannot lock folders."""

    descriptor: int | None
    is_held: bool = False

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


def lock_folder(folder: Path) -> FolderLock | None:
    """Lock a folder until its process ends or releases it; None if another process has locked or removed it."""
    if sys.platform == "win32":
        return FolderLock(None)
    import fcntl  # not on Windows

    try:
        lock = FolderLock(os.open(folder, os.O_RDONLY))
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock.descriptor or 0, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.is_held = True
    except BlockingIOError:
        lock.release()
        return None
    except OSError:  # a file system without locks
        return lock
    if folder.exists():
        return lock
    lock.release()
    return None


def remove_abandoned(parent: Path) -> bool:
    """Remove the temporary folders of killed processes, and return whether others are in use: these are locked."""
    in_use = False
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if _PART.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                lock = lock_folder(Path(entry.path))
                if lock is not None and lock.is_held:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    lock.release()
                else:
                    in_use = True
    return in_use
