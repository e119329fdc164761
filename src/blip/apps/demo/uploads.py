"""What people drop on the page, as pictures, within limits; and the example photos that come with it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from blip_lite.errors import UnreadableImage, UsageError
from blip_lite.image import read

PHOTOS = Path(__file__).parents[2] / "assets" / "examples"
EXAMPLES = tuple(str(PHOTOS / f"{name}.jpg") for name in ("chelsea", "coffee", "astronaut", "camera", "rocket"))
MAX_PHOTOS, MAX_TEXTS, MAX_TEXT = 16, 32, 400
THUMBNAIL = 96  # pixels of the longer side


@dataclass(frozen=True)
class Limits:
    """Of one upload."""

    bytes: int = 20 << 20
    pixels: int = 50_000_000


@dataclass(frozen=True)
class Photo:
    """A picture and the name that its file had."""

    name: str
    image: Image.Image


def photo(path: str | None, limits: Limits) -> Photo:
    """Raises UsageError where there is none, UnreadableImage with the file's own name where it cannot be used."""
    if not path:
        raise UsageError("no photo; drop one on the page or choose an example")
    name = Path(path).name
    if Path(path).stat().st_size > limits.bytes:
        raise UnreadableImage(name, f"more than {limits.bytes / (1 << 20):g} MB, the limit of this page")
    return Photo(name, read(path, key=name, max_pixels=limits.pixels))


def photos(paths: Sequence[tuple[str, str | None]] | None, limits: Limits) -> list[Photo]:
    """The pictures of a gallery."""
    if not paths:
        raise UsageError("no photos; drop some on the page or press 'Use the example photos'")
    if len(paths) > MAX_PHOTOS:
        raise UsageError(f"{len(paths)} photos; at most {MAX_PHOTOS} at a time")
    return [photo(path, limits) for path, _ in paths]


def texts(lines: str | None, what: str = "text") -> list[str]:
    """One a line."""
    found = [line.strip() for line in (lines or "").splitlines() if line.strip()]
    if not found:
        raise UsageError(f"no {what}; write at least one")
    if len(found) > MAX_TEXTS:
        raise UsageError(f"{len(found)} lines; at most {MAX_TEXTS} at a time")
    long = next((line for line in found if len(line) > MAX_TEXT), None)
    if long is not None:
        raise UsageError(f"'{long[:30]}...' has {len(long)} letters; at most {MAX_TEXT}")
    return found


def thumbnail(image: Image.Image, size: int = THUMBNAIL) -> Image.Image:
    small = image.copy()
    small.thumbnail((size, size))
    return small


def as_html(one: Photo) -> str:
    """A thumbnail with its name, as an element that needs no other file."""
    data = io.BytesIO()
    thumbnail(one.image).save(data, "JPEG", quality=80)
    name = html.escape(one.name)
    return (
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}" alt="{name}" title="{name}">'
    )
