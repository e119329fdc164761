"""Sources of an image's bytes other than a file on disk: a member of a tar shard, a URL, or none.

Small frozen values, so that they can be sent to a worker process and read there.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from blip_lite.errors import OfflineError, UnreadableImage, UsageError

MAX_DOWNLOAD = 256 << 20


class ByteSource(Protocol):
    """Anything that returns the bytes of an image. `read` raises `UnreadableImage`."""

    def read(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TarMember:
    """One file of an uncompressed tar, by its place in it."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        key = f"{self.shard}/{self.name}"
        try:
            with open(self.shard, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise UnreadableImage(key, f"cannot be read ({error.strerror or error})") from error
        if len(data) < self.size:
            raise UnreadableImage(key, f"truncated shard (read {len(data)} of {self.size} bytes)")
        return data


@dataclass(frozen=True, slots=True)
class Url:
    """An image on the web, fetched when read: one GET with redirects, http and https only."""

    url: str
    timeout: float = 20.0  # seconds without a byte
    max_bytes: int = MAX_DOWNLOAD
    offline: bool = False

    def read(self) -> bytes:
        if self.offline:
            raise OfflineError(f"{self.url}: a download is needed but --offline is set")
        import httpx2

        try:
            with httpx2.stream("GET", self.url, timeout=self.timeout, follow_redirects=True) as answer:
                if answer.status_code != 200:
                    self._fail(f"HTTP {answer.status_code} {answer.reason_phrase}".rstrip())
                data = bytearray()
                for part in answer.iter_bytes():
                    data += part
                    if len(data) > self.max_bytes:
                        self._fail(f"download of more than {self.max_bytes >> 20} MiB")
                return bytes(data)
        except httpx2.TimeoutException as error:
            raise UnreadableImage(self.url, f"no answer within {self.timeout:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            if isinstance(error, UnreadableImage):
                raise
            raise UnreadableImage(self.url, f"download failed ({error})") from error

    def _fail(self, reason: str) -> NoReturn:
        raise UnreadableImage(self.url, reason)


@dataclass(frozen=True, slots=True)
class MissingSource:
    """An input that was listed but has no image; reading it tells why."""

    key: str
    reason: str

    def read(self) -> bytes:
        raise UnreadableImage(self.key, self.reason)


def tar_members(shard: Path) -> Iterator[TarMember]:
    """Files of a tar in its order. Only headers are read. A cut tar ends with `UsageError` after its good members."""
    try:
        with open(shard, "rb") as raw:
            start = raw.read(6)
        if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start[:6] == b"\xfd7zXZ\0":
            raise UsageError(f"{shard}: compressed tar; decompress it first, shards are read by position")
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.isfile() and not info.issparse():
                    yield TarMember(shard, info.name, info.offset_data, info.size)
                tar.members.clear()  # type: ignore[attr-defined] # it would keep every member
    except FileNotFoundError as error:
        raise UsageError(f"{shard}: no such file") from error
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{shard}: not a readable tar file ({error})") from error
    except OSError as error:
        raise UsageError(f"{shard}: cannot be read ({error.strerror or error})") from error
