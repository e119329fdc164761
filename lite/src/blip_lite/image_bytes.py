"""Bytes of an image from a path, bytes or a file object: bounded, and each failure has a reason."""

from __future__ import annotations

import os
import select
import stat
import threading
from pathlib import Path
from typing import Any, BinaryIO

from blip_lite.errors import UnreadableImage

_BYTES_PER_PIXEL = 8  # 16-bit RGBA, the largest common pixel: limits the file size by the pixel limit
_FILE_ALLOWANCE = 64 << 20  # metadata, thumbnails, later frames
_CHUNK = 16 << 20  # bytes per read
_POLL_SECONDS = 0.2
_stopped = threading.Event()
_DESCRIPTORS = (Path("/dev/fd"), Path("/proc/self/fd"))  # of process substitution


def max_bytes(max_pixels: int) -> int:
    """Largest file that is read for an image of at most that many pixels."""
    return max_pixels * _BYTES_PER_PIXEL + _FILE_ALLOWANCE


def source_key(source: object) -> str:
    """Name of a source in errors: its path, or "image"."""
    name = getattr(source, "name", None) if hasattr(source, "read") else source
    if isinstance(name, str | os.PathLike):
        return os.fsencode(name).decode("utf-8", "replace")
    return "image"


def read_bytes(source: str | os.PathLike[str] | bytes | BinaryIO, key: str, limit: int) -> bytes:
    """Contents of a path, bytes or file object, at most `limit` bytes. Raises UnreadableImage."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        data = _file_bytes(Path(source), key, limit)
    else:
        data = _object_bytes(source, key, limit)
    if len(data) > limit:
        raise UnreadableImage(key, _too_big(len(data), limit))
    return data


def _file_bytes(path: Path, key: str, limit: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage(key, "is a folder, not an image file")
        if not stat.S_ISREG(status.st_mode) and path.parent not in _DESCRIPTORS:
            raise UnreadableImage(key, "is not a regular file; pass its contents on standard input")
        if not stat.S_ISREG(status.st_mode):
            return _pipe_bytes(path, key, limit)
        if status.st_size > limit:
            raise UnreadableImage(key, _too_big(status.st_size, limit))
        with open(path, "rb") as file:
            return _read_chunks(file, limit)
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(key, "no such file") from error
    except OSError as error:
        raise UnreadableImage(key, f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL character in the name
        raise UnreadableImage(key, f"not a file name ({error})") from error


def interrupt_pipes(stopped: bool) -> None:
    """Let all threads that wait for data of a pipe fail, and those that will; False: wait again."""
    (_stopped.set if stopped else _stopped.clear)()


def _pipe_bytes(path: Path, key: str, limit: int) -> bytes:
    """Contents of a pipe. A thread that is blocked in `read` would keep the process from ending."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer blocks `open`
    parts = bytearray()
    try:
        while len(parts) <= limit:
            while not select.select([descriptor], [], [], _POLL_SECONDS)[0]:
                if _stopped.is_set():
                    raise UnreadableImage(key, "interrupted while waiting for data")
            if not (part := os.read(descriptor, 1 << 16)):
                break
            parts += part
    finally:
        os.close(descriptor)
    return bytes(parts)


def _object_bytes(file: Any, key: str, limit: int) -> bytes:
    """Contents of a file object from its start, if it can be rewound: it may have been read before."""
    try:
        if hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable()):
            file.seek(0)
        return _read_chunks(file, limit)
    except (OSError, ValueError) as error:  # closed, or not open for reading
        raise UnreadableImage(key, f"file object cannot be read ({error})") from error
    except TypeError as error:
        raise UnreadableImage(key, "file object returns text; open it in mode 'rb'") from error


def _read_chunks(file: Any, limit: int) -> bytes:
    """Contents, at most one chunk beyond `limit`. A single read of `limit` bytes would reserve them all."""
    parts = bytearray()
    while len(parts) <= limit and (part := file.read(_CHUNK)):
        parts += part
    return bytes(parts)


def _too_big(size: int, limit: int) -> str:
    return f"file of {size >> 20:,} MiB; at most {limit >> 20:,} MiB are read"
