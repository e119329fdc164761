"""The sample that every reader returns: image locations, texts and other columns. Images are opened when read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image

from blip.io.byte_sources import ByteSource, ImageSource, TarMember
from blip_lite.errors import UnreadableImage
from blip_lite.image import MAX_PIXELS, read
from blip_lite.image_bytes import max_bytes, read_bytes


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Location of an image: a file, or a byte source such as a member of a shard. Small and picklable."""

    source: Path | ByteSource | ImageSource

    @property
    def path(self) -> Path | None:
        """The image file on disk, or None for other sources."""
        return self.source if isinstance(self.source, Path) else None

    @property
    def name(self) -> str:
        """The image in messages: its path, or shard and member."""
        if isinstance(self.source, TarMember):
            return f"{self.source.shard}/{self.source.name}"
        return str(self.source)

    def open(self) -> Path | bytes:
        """Return what `blip_lite.image.read` accepts: the path, or the bytes."""
        return self.source if isinstance(self.source, Path) else self.read_bytes()

    def read(self, *, key: str | None = None, max_pixels: int = MAX_PIXELS) -> Image:
        """Decode the image to RGB; `UnreadableImage` names `key`, by default the image's own name."""
        key = self.name if key is None else key
        try:
            if isinstance(self.source, ImageSource):
                return self.source.read_image(max_pixels=max_pixels)
            return read(self.open(), key=key, max_pixels=max_pixels)
        except UnreadableImage as error:
            if error.key == key:
                raise
            raise UnreadableImage(key, error.reason) from error

    def read_bytes(self) -> bytes:
        """Return the bytes without decoding them. Raises `UnreadableImage`."""
        if isinstance(self.source, ImageSource):
            raise UnreadableImage(self.name, "is decoded without a file of its own")
        if not isinstance(self.source, Path):
            return self.source.read()
        return read_bytes(self.source, str(self.source), max_bytes(MAX_PIXELS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row of a data source: its images, its texts as stored, and other columns in `fields`."""

    key: str
    images: tuple[ImageRef, ...]  # at least one; NLVR2 rows have two
    texts: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""  # file and row, for messages

    @property
    def image(self) -> ImageRef:
        """The first image."""
        return self.images[0]

    @property
    def place(self) -> str:
        """File name and row, without the folder: the same wherever the data are stored."""
        return self.key if self.where.endswith(f"/{self.key}") else os.path.basename(self.where) or self.key

    @property
    def path(self) -> Path | None:
        """The first image's file on disk, or None for other sources."""
        return self.images[0].path

    def read(self, *, max_pixels: int = MAX_PIXELS) -> Image:
        """Decode the first image to RGB; `UnreadableImage` names the sample's key."""
        return self.images[0].read(key=self.key, max_pixels=max_pixels)
