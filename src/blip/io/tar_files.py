"""The files in an uncompressed tar, without reading their data."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from blip.io.byte_sources import TarMember, close_files, read_at
from blip_lite.errors import UsageError

_SPAN_BYTES = 1 << 20  # read at once of a span


class TarEntry(NamedTuple):
    """A member, and the bytes of the tar from the start of its header to the end of its padded data."""

    member: TarMember
    start: int
    end: int


def tar_members(shard: Path) -> Iterator[TarMember]:
    """Yield the files of a tar in order. A truncated or damaged tar ends with `UsageError`."""
    for entry in tar_entries(shard):
        yield entry.member


def tar_entries(shard: Path) -> Iterator[TarEntry]:
    """Yield `tar_members` with their places."""
    with _tar_errors(shard):
        close_files()
        with open(shard, "rb") as raw:
            start = raw.read(6)
        if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start[:6] == b"\xfd7zXZ\0":
            raise UsageError(f"{shard}: compressed tar; decompress it first, shards are read by position")
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.isfile() and not info.issparse():
                    padded = -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    yield TarEntry(_member(shard, info), info.offset, info.offset_data + padded)
                tar.members.clear()  # type: ignore[attr-defined] # would otherwise keep every member
            _check_end(tar)


def tar_span(shard: Path, start: int, size: int) -> list[TarMember]:
    """Return the members that `size` bytes from byte `start` on contain. Raises `UsageError`."""
    with _tar_errors(shard), tarfile.TarFile(fileobj=_Span(shard, start, start + size)) as tar:
        return [_member(shard, info) for info in tar if info.isfile() and not info.issparse()]


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise `ReadError` unless zero blocks follow the last member, and nothing after them.

    `tarfile` stops silently at a damaged header, where a file is cut between members, and before a second archive.
    """
    file = tar.fileobj
    assert file is not None, "a tar that is read"
    file.seek(tar.offset)
    end = file.read(tarfile.BLOCKSIZE)
    if end.strip(b"\0"):
        raise tarfile.ReadError(f"damaged or truncated at byte {tar.offset:,}")
    if len(end) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"truncated at byte {tar.offset + len(end):,}: no zero block marks its end")
    while chunk := file.read(_SPAN_BYTES):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(f"data after its end at byte {tar.offset:,}: damaged or several archives in one")


def _member(shard: Path, info: tarfile.TarInfo) -> TarMember:
    return TarMember(shard, info.name, info.offset_data, info.size)


@contextmanager
def _tar_errors(shard: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{shard}: no such file") from error
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{shard}: not a readable tar file ({error})") from error
    except OSError as error:
        raise UsageError(f"{shard}: cannot be read ({error.strerror or error})") from error


class _Span(io.RawIOBase):
    """Part of a file for `tarfile`: positions are those of the file, and it ends where the part does."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self._path, self._start, self._at, self._end = path, start, start, end
        self._buffer = read_at(path, start, min(end - start, _SPAN_BYTES))  # one read for a sample of usual size

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset  # tarfile seeks from the start only
        return offset

    def read(self, size: int = -1) -> bytes:
        first = self._at
        last = self._end if size < 0 else min(first + size, self._end)
        if self._start <= first and last <= self._start + len(self._buffer):
            data = self._buffer[first - self._start : last - self._start]
        else:
            data = read_at(self._path, first, max(last - first, 0))
        self._at += len(data)
        return data
