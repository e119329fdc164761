"""Failures of writing, of this package and of the libraries that write files for it, as `EnvironmentProblem`."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from blip_lite.errors import BlipError, EnvironmentProblem

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULL_SIGNS = ("No space left", "quota exceeded", "File too large", "disk is full")
# safetensors, torch, onnx and pyarrow raise their own errors
_SIGNS = (*_FULL_SIGNS, "IoError", "I/O error", "file write failed", "unexpected pos", "enforce fail")


@contextlib.contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every failure of writing `target` into `EnvironmentProblem`; a closed pipe passes."""
    try:
        with disk_full(target):
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentProblem(f"{target}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def disk_full(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk, and failed writes of libraries, into `EnvironmentProblem`; every other error passes."""
    try:
        yield
    except Exception as error:
        reason = write_failure(error)
        if reason is None:
            raise
        raise EnvironmentProblem(f"{target}: {reason}") from error


def write_failure(error: Exception) -> str | None:
    """Return the reason if an error is a full disk or a library's failed write, else None."""
    if isinstance(error, BlipError):
        return None
    code, text = getattr(error, "errno", None), str(error)
    if code in _FULL or any(sign in text for sign in _FULL_SIGNS):
        reason = f" ({os.strerror(code)})" if code in _FULL else ""
        return f"no space left on the disk{reason}; free some or write elsewhere"
    if isinstance(error, OSError) or not any(sign in text for sign in _SIGNS):
        return None
    return f"cannot be written, the disk may be full ({text.splitlines()[0][:200]})"


def is_device(path: Path) -> bool:
    """Whether a path is a device or a pipe, which is written in place."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
