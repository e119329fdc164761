"""The sample that every reader returns: image locations, texts and other columns. Images are opened when read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip.io.byte_sources import ByteSource
from blip_lite.errors import UnreadableImage


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Location of an image's bytes: a file, or a byte source such as a member of a shard. Small and picklable."""

    source: Path | ByteSource

    @property
    def path(self) -> Path | None:
        """The image file on disk, or None for other sources."""
        return self.source if isinstance(self.source, Path) else None

    def open(self) -> Path | bytes:
        """Return what `blip_lite.image.read` accepts."""
        return self.source if isinstance(self.source, Path) else self.source.read()

    def read_bytes(self) -> bytes:
        """Return the bytes without decoding them. Raises `UnreadableImage`."""
        if not isinstance(self.source, Path):
            return self.source.read()
        try:
            return self.source.read_bytes()
        except OSError as error:
            raise UnreadableImage(str(self.source), f"cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row of a data source: at least one image, its texts as stored, and all other columns in `fields`."""

    key: str
    images: tuple[ImageRef, ...]  # NLVR2 rows have two
    texts: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""  # file and row, for messages

    @property
    def image(self) -> ImageRef:
        """The first image."""
        return self.images[0]
