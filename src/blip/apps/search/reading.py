"""From a file to pictures of a model's size: hashed, decoded and made small in a thread, so that few bytes wait."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blip.apps.search.schema import STILL
from blip.apps.search.walk import Found, shown
from blip.io.inputs import VIDEO_EXTENSIONS, Input
from blip_lite.errors import MissingExtra, UnreadableImage
from blip_lite.image import MAX_PIXELS, prepare, read

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

READ_AHEAD = 24  # files
_FRAME = re.compile(r"(.+)#t=(\d+\.\d{3})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Picture:
    """A still, or a frame of a video, in each size asked for."""

    at: int
    pixels: dict[int, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file. `lasting`: an error that the same bytes will give again."""

    file: Found
    hash: bytes = b""
    pictures: Sequence[Picture] = ()
    error: str | None = None
    lasting: bool = True


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How files are read. `skip` tells of a hash whether its pictures are not needed."""

    sizes: Sequence[int]
    frames: int = 8
    max_pixels: int = MAX_PIXELS
    workers: int = 2
    skip: Callable[[bytes], bool] = field(default=lambda _: False)

    def all(self, found: Iterable[tuple[Found, bool]]) -> Generator[Content, None, None]:
        """The contents of files in their order, some read ahead; True with a file: its pictures are needed anyway."""
        waiting: deque[Future[Content]] = deque()
        pool = ThreadPoolExecutor(self.workers)
        rest = iter(found)
        try:
            while True:
                for one, needed in islice(rest, READ_AHEAD - len(waiting)):
                    waiting.append(pool.submit(self.one, one, needed))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def one(self, file: Found, needed: bool = False) -> Content:
        """The content of one file; its failures are in it."""
        digest = b""
        try:
            with open(file.path, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            pictures = () if self.skip(digest) and not needed else self._pictures(file)
            status = os.stat(file.path)
        except MissingExtra as error:
            return Content(file, digest, error=str(error), lasting=False)
        except UnreadableImage as error:
            return Content(file, digest, error=error.reason)
        except OSError as error:
            return Content(file, digest, error=f"cannot be read ({error.strerror or error})", lasting=False)
        if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime):
            return Content(file, digest, error="was written to while it was read", lasting=False)
        return Content(file, digest, pictures)

    def _pictures(self, file: Found) -> list[Picture]:
        path, key = os.fsdecode(file.path), shown(file.path)
        if not path.lower().endswith(VIDEO_EXTENSIONS):
            return [self._picture(STILL, read(path, key=key, max_pixels=self.max_pixels))]
        found: list[Picture] = []
        problem: UnreadableImage | None = None
        for one in _frames(path, key, self.frames):
            try:
                found.append(self._picture(_milliseconds(one), one.read(max_pixels=self.max_pixels)))
            except UnreadableImage as error:
                problem = error
        if not found:
            raise problem or UnreadableImage(key, "holds no frame")
        return found

    def _picture(self, at: int, image: Image) -> Picture:
        return Picture(at, {size: small(image, size) for size in self.sizes})


def small(image: Image, size: int) -> NDArray[np.uint8]:
    """[S, S, 3]: a picture as a model of this size sees it; giving it to the model changes no pixel again."""
    values = prepare([image], size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))[0]
    return np.ascontiguousarray(np.rint(values * 255).astype(np.uint8).transpose(1, 2, 0))


def picture_of(path: bytes, at: int = STILL, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The whole picture of a hit. Raises UnreadableImage."""
    name = os.fsdecode(path)
    if at == STILL:
        return read(name, max_pixels=max_pixels)
    from blip.io.video import Frame

    return Input(key=shown(path, at), source=Frame(Path(name), at)).read(max_pixels=max_pixels)


def picture_of_hit(shown: str) -> Image:
    """The whole picture of `Hit.path`, which may be `v.mp4#t=12.480`. Raises UnreadableImage."""
    match = None if os.path.lexists(shown) else _FRAME.fullmatch(shown)
    if match is None:
        return picture_of(os.fsencode(shown))
    return picture_of(os.fsencode(match[1]), round(float(match[2]) * 1000))


def _frames(path: str, key: str, count: int) -> list[Input]:
    from blip.io.video import frame_inputs

    return frame_inputs(path, count, key=key)


def _milliseconds(one: Input) -> int:
    source: Any = one.source
    return int(getattr(source, "milliseconds", 0))
