"""Files as pictures of a model's input size: hashed, decoded and resized in threads, so that little memory is held."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blip.apps.search.database import STILL
from blip.apps.search.scan import ScannedFile, display_path
from blip.io.ordered_map import ordered_map
from blip.io.paths import VIDEO_EXTENSIONS
from blip.io.perceptual_hash import perceptual_hash
from blip.io.samples import ImageRef
from blip_lite.errors import MissingExtra, UnreadableImage
from blip_lite.image import MAX_PIXELS, read, square

if TYPE_CHECKING:
    from PIL.Image import Image

READ_AHEAD = 24  # files
_FRAME = re.compile(r"(.+)#t=(\d+\.\d{3})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Picture:
    """A still or a video frame at each requested input size. `pixels` is its number of pixels in full size."""

    at: int
    images: dict[int, Image]
    pixels: int

    @property
    def phash(self) -> int:
        """Perceptual hash; that of the resized image differs by few bits if at all, and takes little time."""
        return perceptual_hash(next(iter(self.images.values())))


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a file, or the reason why it has none. `permanent`: reading the same bytes fails again."""

    file: ScannedFile
    hash: bytes = b""
    pictures: Sequence[Picture] = ()
    error: str | None = None
    permanent: bool = True


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads files. `skip` returns whether the pictures of a file with this hash are not needed."""

    sizes: Sequence[int]
    frames: int = 8
    max_pixels: int = MAX_PIXELS
    workers: int = 2
    skip: Callable[[bytes], bool] = lambda _: False

    def read_all(self, files: Iterable[tuple[ScannedFile, bool]]) -> Generator[Content, None, None]:
        """Yield the contents of files in order, reading ahead. True beside a file: its pictures are needed anyway."""
        return ordered_map(lambda item: self.read(*item), files, ahead=READ_AHEAD, workers=self.workers)

    def read(self, file: ScannedFile, needed: bool = False) -> Content:
        """Return the content of one file; errors are part of it."""
        digest = b""
        try:
            with open(file.path, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            pictures = () if self.skip(digest) and not needed else self._pictures(file)
            status = os.stat(file.path)
        except MissingExtra as error:
            return Content(file, digest, error=str(error), permanent=False)
        except UnreadableImage as error:
            return Content(file, digest, error=error.reason)
        except OSError as error:
            return Content(file, digest, error=f"cannot be read ({error.strerror or error})", permanent=False)
        if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime):
            return Content(file, digest, error="changed while it was being read", permanent=False)
        return Content(file, digest, pictures)

    def _pictures(self, file: ScannedFile) -> list[Picture]:
        path, key = os.fsdecode(file.path), display_path(file.path)
        if not path.lower().endswith(VIDEO_EXTENSIONS):
            return [self._picture(STILL, read(path, key=key, max_pixels=self.max_pixels))]
        from blip.io.video import Frame, frame_inputs

        pictures: list[Picture] = []
        problem: UnreadableImage | None = None
        for frame in frame_inputs(path, self.frames, key=key):
            try:
                image = frame.read(max_pixels=self.max_pixels)
                assert isinstance(frame.image.source, Frame)  # an unreadable clip is another source, which fails above
                pictures.append(self._picture(frame.image.source.milliseconds, image))
            except UnreadableImage as error:
                problem = error
        if not pictures:
            raise problem or UnreadableImage(key, "contains no frame")
        return pictures

    def _picture(self, at: int, image: Image) -> Picture:
        return Picture(at, {size: square(image, size) for size in self.sizes}, image.width * image.height)


def read_picture(path: bytes, at: int = STILL) -> Image:
    """Read a still, or the frame of a video at `at` milliseconds, in full size. Raises UnreadableImage."""
    name = os.fsdecode(path)
    if at == STILL:
        return read(name)
    from blip.io.video import Frame

    return ImageRef(Frame(Path(name), at)).read(key=display_path(path, at))


def read_hit(path: str) -> Image:
    """Read the picture of `Hit.path`, which may be `v.mp4#t=12.480`, in full size. Raises UnreadableImage."""
    match = None if os.path.lexists(path) else _FRAME.fullmatch(path)
    if match is None:
        return read_picture(os.fsencode(path))
    return read_picture(os.fsencode(match[1]), round(float(match[2]) * 1000))
