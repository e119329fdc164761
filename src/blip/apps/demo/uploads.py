"""Uploaded photos and typed texts, checked against limits; and the bundled example photos."""

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
    """Limits of one upload."""

    bytes: int = 20 << 20
    pixels: int = 50_000_000


@dataclass(frozen=True)
class Photo:
    """An image and the name of its file."""

    name: str
    image: Image.Image


def photo(path: str | None, limits: Limits) -> Photo:
    """Read an upload. Raises UsageError if there is none, UnreadableImage with the name of the file."""
    if not path:
        raise UsageError("no photo; drop one on the page or choose an example")
    name = Path(path).name
    if Path(path).stat().st_size > limits.bytes:
        raise UnreadableImage(name, f"more than {limits.bytes / (1 << 20):g} MB, the limit of this page")
    return Photo(name, read(path, key=name, max_pixels=limits.pixels))


def photos(paths: Sequence[tuple[str, str | None]] | None, limits: Limits) -> list[Photo]:
    """Read the uploads of a gallery."""
    if not paths:
        raise UsageError("no photos; drop some on the page or press 'Use the example photos'")
    if len(paths) > MAX_PHOTOS:
        raise UsageError(f"{len(paths)} photos; at most {MAX_PHOTOS} at a time")
    return [photo(path, limits) for path, _ in paths]


def texts(lines: str | None, what: str = "text") -> list[str]:
    """Split a text box into its lines; `what` names them in errors."""
    result = [line.strip() for line in (lines or "").splitlines() if line.strip()]
    if not result:
        raise UsageError(f"no {what}; write at least one")
    if len(result) > MAX_TEXTS:
        raise UsageError(f"{len(result)} lines; at most {MAX_TEXTS}")
    long = next((line for line in result if len(line) > MAX_TEXT), None)
    if long is not None:
        raise UsageError(f"'{long[:30]}...' has {len(long)} characters; at most {MAX_TEXT}")
    return result


def thumbnail(image: Image.Image, size: int = THUMBNAIL) -> Image.Image:
    result = image.copy()
    result.thumbnail((size, size))
    return result


def as_html(photo: Photo) -> str:
    """Return a thumbnail as an `img` element that contains its data."""
    data = io.BytesIO()
    thumbnail(photo.image).save(data, "JPEG", quality=80)
    name = html.escape(photo.name)
    return (
        f'<img src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}" alt="{name}" title="{name}">'
    )
