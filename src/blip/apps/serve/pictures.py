"""Uploaded files to the small pictures that models look at, a few at a time; sizes are checked before decoding."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from blip.apps.serve.jobs import Picture
from blip_lite.errors import MissingExtra, UnreadableImage
from blip_lite.image import read, square

SHOWN = 1024  # pixels of the longer side of a picture that a heat-map is laid over


class Decoder:
    """Threads that decode. Their number bounds how many full pictures are in memory at once."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")

    async def picture(self, data: bytes, key: str, size: int | None) -> Picture:
        """The picture at the model's `size`, or for None at most SHOWN pixels wide and high. UnreadableImage if bad."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._picture, data, key, size)

    def _picture(self, data: bytes, key: str, size: int | None) -> Picture:
        try:
            image = read(data, key=key, max_pixels=self.max_pixels)
        except MissingExtra as error:
            raise UnreadableImage(key, "is HEIC, which this server cannot read; send JPEG or PNG") from error
        return Picture.of(_shown(image) if size is None else square(image, size), image.size)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _shown(image: Image.Image) -> Image.Image:
    if max(image.size) > SHOWN:
        image.thumbnail((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    return image
