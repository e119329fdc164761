"""Sources of an image's bytes other than a file on disk: a member of a tar shard, a URL, or none.

Small frozen values, so that they can be sent to a worker process and read there.
"""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

from PIL.Image import Image

from blip.io.fetch import offline_reason
from blip_lite.errors import OfflineError, UnreadableImage

MAX_IMAGE_BYTES = 256 << 20  # of a download, a member of a shard, a cell of a table


class ByteSource(Protocol):
    """Anything that returns the bytes of an image. `read` raises `UnreadableImage`."""

    def read(self) -> bytes: ...


@runtime_checkable
class ImageSource(Protocol):
    """A source of decoded RGB images, such as the frames of a video. `read_image` raises `UnreadableImage`."""

    def read_image(self, *, max_pixels: int) -> Image: ...


@dataclass(frozen=True, slots=True)
class TarMember:
    """One file of an uncompressed tar, by its position in it. A tar stays open for the next read of its members."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        key = f"{self.shard}/{self.name}"
        if self.size > MAX_IMAGE_BYTES:
            limit = f"at most {MAX_IMAGE_BYTES >> 20} MiB are read"
            raise UnreadableImage(key, f"claims {self.size / (1 << 20):,.0f} MiB; {limit}")
        try:
            data = read_at(self.shard, self.offset, self.size)
        except OSError as error:
            raise UnreadableImage(key, f"cannot be read ({error.strerror or error})") from error
        if len(data) < self.size:
            raise UnreadableImage(key, f"truncated shard (read {len(data)} of {self.size} bytes)")
        return data


@dataclass(frozen=True, slots=True)
class Url:
    """An image on the web, fetched when read: one GET request with redirects, http and https only."""

    url: str
    timeout: float = 20.0  # seconds without data
    max_bytes: int = MAX_IMAGE_BYTES
    offline: bool = False

    def read(self) -> bytes:
        if self.offline:
            raise OfflineError(f"{self.url}: a download is needed but {offline_reason()}")
        import httpx2

        try:
            with httpx2.stream("GET", self.url, timeout=self.timeout, follow_redirects=True) as response:
                if response.status_code != 200:
                    self._fail(f"HTTP {response.status_code} {response.reason_phrase}".rstrip())
                data = bytearray()
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > self.max_bytes:
                        self._fail(f"download of more than {self.max_bytes >> 20} MiB")
                return bytes(data)
        except httpx2.TimeoutException as error:
            raise UnreadableImage(self.url, f"no response within {self.timeout:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            if isinstance(error, UnreadableImage):
                raise
            raise UnreadableImage(self.url, f"download failed ({error})") from error

    def _fail(self, reason: str) -> NoReturn:
        raise UnreadableImage(self.url, reason)


@dataclass(frozen=True, slots=True, repr=False)
class InlineImage:
    """An image in base64 that a table contains itself."""

    where: str
    data: str

    def __repr__(self) -> str:
        return f"InlineImage({self.where!r})"

    def __str__(self) -> str:
        return self.where

    def read(self) -> bytes:
        if len(self.data) // 4 * 3 > MAX_IMAGE_BYTES:
            raise UnreadableImage(self.where, f"more than {MAX_IMAGE_BYTES >> 20} MiB in base64")
        text = "".join(self.data.split()).rstrip("=").replace("-", "+").replace("_", "/")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError as error:
            raise UnreadableImage(self.where, f"not valid base64 ({error})") from error


@dataclass(frozen=True, slots=True)
class MissingSource:
    """An input that was listed but has no image; reading it raises the reason."""

    key: str
    reason: str

    def __str__(self) -> str:
        return self.key

    def read(self) -> bytes:
        raise UnreadableImage(self.key, self.reason)


class _OpenFile:
    """A file descriptor, closed with its last reference."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


_open_file = lru_cache(maxsize=64)(_OpenFile)


def close_files() -> None:
    """Close the files that `read_at` keeps open: they may have been replaced since."""
    _open_file.cache_clear()


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Read at a position without moving one, so that threads and forked processes may share the open file."""
    if sys.platform == "win32":  # has no pread, and does not replace or delete open files
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    file = _open_file(path)  # also keeps it open while it is read
    parts: list[bytes] = []
    while size and (part := os.pread(file.fd, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
