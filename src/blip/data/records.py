"""One row of a data source as a value: where its image lies, its texts, its other columns. Opens nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip.io.inputs import Place
from blip_lite.errors import UnreadableImage


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where the bytes of an image are: a file, or a place inside a shard or table. Small and picklable."""

    source: Path | Place

    @property
    def path(self) -> Path | None:
        """The image file on disk, if it is one."""
        return self.source if isinstance(self.source, Path) else None

    def open(self) -> Path | bytes:
        """What `blip_lite.image.read` takes."""
        return self.source if isinstance(self.source, Path) else self.source.read()

    def read_bytes(self) -> bytes:
        """The file's bytes, undecoded. Raises `UnreadableImage`."""
        if not isinstance(self.source, Path):
            return self.source.read()
        try:
            return self.source.read_bytes()
        except OSError as error:
            raise UnreadableImage(str(self.source), f"cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row. `texts` are as in the file, not cleaned. `fields` are the columns that are neither image nor text."""

    key: str
    image: ImageRef
    texts: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    more_images: tuple[ImageRef, ...] = ()  # NLVR2 has two images a row
    where: str = ""  # file and row, for messages

    @property
    def images(self) -> tuple[ImageRef, ...]:
        return (self.image, *self.more_images)
