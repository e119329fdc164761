"""Server configuration and API keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blip_lite.errors import UsageError
from blip_lite.text_files import read_text

BUNDLED = ("tiny", "tiny-vqa")
MEGABYTE = 1_000_000
MIN_KEY_LENGTH = 16  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Models, limits, keys and processes of a server. Times in seconds, sizes in bytes and pixels."""

    models: tuple[str, ...] = BUNDLED
    max_batch: int = 16  # images per batch
    max_wait: float = 0.005  # how long to wait for a batch to fill
    queue: int = 256  # images in flight; further requests get 429
    timeout: float = 30.0  # for a body to arrive, and from then to the response
    min_rate: float = 1000.0  # bytes per second of a body; slower ones get 408 ...
    stall: float = 5.0  # ... after falling behind by this time, in seconds
    max_upload: int = 20 * MEGABYTE  # of a request body
    max_pixels: int = 50_000_000  # of an image
    allow_urls: bool = False
    key_digests: tuple[bytes, ...] = ()  # SHA-256 of each API key; empty = no authentication
    origins: tuple[str, ...] = ()  # allowed by CORS
    workers: int = 1
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None  # per worker; None = the cores divided by the number of workers
    offline: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch", "queue", "workers", "max_upload", "max_pixels"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}; must be at least 1")
        if not 0 <= self.max_wait < self.timeout:
            raise UsageError(f"max wait {self.max_wait:g} s; must be from 0 to below the timeout of {self.timeout:g} s")
        if len(set(self.models)) < len(self.models) or not self.models:
            raise UsageError(f"models {', '.join(self.models)}; must be distinct, and at least one")

    @property
    def max_images(self) -> int:
        """Maximum number of images in one request."""
        return min(64, self.queue)

    @property
    def max_buffered(self) -> int:
        """Maximum number of bytes of all request bodies in memory."""
        return max(4 * self.max_upload, 256 * MEGABYTE)


def read_keys(path: Path) -> tuple[bytes, ...]:
    """SHA-256 of each API key in a file with one key per line; empty lines and comments (#) are skipped."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file {path}; cannot be read ({getattr(error, 'strerror', error)})") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or any(len(key) < MIN_KEY_LENGTH for key in keys):
        limit = f"must hold at least one key, of at least {MIN_KEY_LENGTH} characters each"
        raise UsageError(f"--api-key-file {path}; {limit}")
    return tuple(dict.fromkeys(_digest(key.encode("utf-8")) for key in keys))


def is_authorized(headers: Mapping[str, str], digests: Sequence[bytes]) -> bool:
    """Whether a header holds one of the keys, or none is configured. Takes the same time for every wrong key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    digest = _digest(key.encode("latin-1", "replace"))  # the bytes as received
    return not digests or any([hmac.compare_digest(digest, known) for known in digests])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
