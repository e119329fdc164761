"""What a server is told at its start, as one value that any process can be given."""

from __future__ import annotations

from dataclasses import dataclass

from blip_lite.errors import UsageError

BUNDLED = ("tiny", "tiny-vqa")
MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Models, limits, keys and processes. Times are seconds, sizes bytes and pixels."""

    models: tuple[str, ...] = BUNDLED
    max_batch: int = 16  # images that a model sees at once
    max_wait: float = 0.005  # that the first image of a batch waits for others
    queue: int = 256  # images waiting or worked on; more are refused with 429
    timeout: float = 30.0  # of a request, from its first byte to its answer
    max_upload: int = 20 * MEGABYTE  # of a request's body
    max_pixels: int = 50_000_000  # of an image
    allow_urls: bool = False
    key_digests: tuple[bytes, ...] = ()  # SHA-256 of each API key; none = open to all
    origins: tuple[str, ...] = ()  # that CORS lets in
    workers: int = 1
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None  # of each worker; None = the cores shared out
    offline: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("queue", 1), ("workers", 1), ("max_upload", 1), ("max_pixels", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)}; must be at least {least}")
        if not 0 <= self.max_wait < self.timeout:
            raise UsageError(f"max wait {self.max_wait:g} s; must be from 0 to below the timeout of {self.timeout:g} s")
        if len(set(self.models)) < len(self.models) or not self.models:
            raise UsageError(f"models {', '.join(self.models)}; must be different ones, and at least one")

    @property
    def max_images(self) -> int:
        """Of one request."""
        return min(64, self.queue)

    @property
    def max_buffered(self) -> int:
        """Bytes of bodies in memory at once, of all requests."""
        return max(4 * self.max_upload, 256 * MEGABYTE)
