"""The image of a row: its bytes and the extension of its file."""

from __future__ import annotations

import os
from pathlib import Path

from blip.io.byte_sources import TarMember
from blip.io.samples import ImageRef, Sample
from blip_lite import sniff
from blip_lite.errors import BadRecord, UnreadableImage
from blip_lite.image import EXTENSIONS

_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "WebP": ".webp",
    "AVIF": ".avif",
    "HEIC": ".heic",
    "JPEG 2000": ".jp2",
}


def only_image(sample: Sample) -> ImageRef:
    """Return the image of a row. Raises BadRecord for a row of two images."""
    if len(sample.images) > 1:
        raise BadRecord(sample.where, "two images in a row; such rows can only be written as .json or .jsonl")
    return sample.image


def read_image(ref: ImageRef, where: str) -> bytes:
    """Return the bytes of an image's file. Raises BadRecord, with the row's place, if it cannot be read."""
    try:
        return ref.read_bytes()
    except UnreadableImage as error:
        raise BadRecord(where, str(error)) from error


def image_extension(ref: ImageRef, data: bytes, where: str) -> str:
    """Return the extension of the image's name, else that of its format."""
    name = ref.source.name if isinstance(ref.source, Path | TarMember) else ""
    ending = os.path.splitext(name)[1].lower()
    if ending in EXTENSIONS:
        return ending
    kind = sniff.image_format(data)
    if kind not in _SUFFIXES:
        raise BadRecord(where, sniff.explain_not_image(data) if data else "empty image (0 bytes)")
    return _SUFFIXES[kind]
