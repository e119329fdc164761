"""Pixels of more than 8 bits per value as 8 bits. Files of 16 bits often hold the 10, 12 or 14 bits of a camera."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DEPTHS = (8, 10, 12, 14, 16)
_WIDE = re.compile(r"(?:RGBA|RGBa|RGBX|RGB|R|G|B|A|LA);16[LBN]")
_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def grey_to_rgb(image: Image.Image) -> Image.Image:
    """Convert 16-bit, 32-bit or float grey levels to RGB; white is the smallest common maximum above all values."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        values = values.astype(np.uint16)
        grey = (values >> max(0, min(_sample_bits(image), _depth(int(values.max(initial=0)))) - 8)).clip(0, 255)
    else:
        values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        peak = float(values.max(initial=0.0))
        white = next((w for w in (1.0, 255.0, 65535.0) if peak <= w and (w > 1 or image.mode == "F")), peak)
        grey = (values / white * 255).clip(0, 255)
        grey = grey.round() if white <= 255 else np.floor(grey)
    grey = grey.astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the grey level that is transparent
        grey = np.where(np.asarray(image) == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def value_problem(image: Image.Image) -> str:
    """Reason why a loaded image of 32 bits per pixel is not a picture; "" if it is."""
    if image.mode not in ("I", "F"):
        return ""
    low, high = np.asarray(image).min(), np.asarray(image).max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return "pixels are NaN or infinite"
    return f"pixels from {low:.4g} to {high:.4g}; must not be negative" if low < 0 else ""


def has_low_bytes(image: Image.Image) -> bool:
    """Whether an opened file, not yet loaded, has colours or alpha of 16 bits, of which Pillow reads the high byte."""
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA") and any(_WIDE.fullmatch(_raw_mode(tile)) for tile in tiles)


def fits_low_bits(image: Image.Image) -> bool:
    """Whether the colours of a loaded image for which `has_low_bytes` need at most 14 of the 16 bits."""
    extrema: Any = image.getextrema()
    return all(high < 1 << 6 for _, high in extrema[:3])


def scale_colours(image: Image.Image, load: Callable[[Callable[[Any], None]], Image.Image]) -> Image.Image:
    """A loaded image for which `has_low_bytes`, scaled by the depth that its colours need, if less than 15 bits.

    load: reads the file again, after a function has changed the opened image.
    """
    if not fits_low_bits(image):
        return image
    is_grey = False

    def read_low_bytes(other: Any) -> None:
        nonlocal is_grey
        is_grey = _raw_mode(other.tile[0]).startswith("LA")
        other.tile = [tile._replace(args=_low_byte_args(tile.args)) for tile in other.tile]

    low = load(read_low_bytes)
    if is_grey:  # the bytes of grey and alpha, two each
        bands = [_join(low.getchannel(i), low.getchannel(i + 1)) for i in (0, 0, 0, 2)]
    else:
        bands = [_join(image.getchannel(name), low.getchannel(name)) for name in image.getbands()]
    shift = _depth(max(int(band.max()) for band in bands[:3])) - 8
    shifts = [shift] * 3 + [_depth(int(band.max())) - 8 for band in bands[3:]]
    scaled = [(band >> bits).astype(np.uint8) for band, bits in zip(bands, shifts, strict=True)]
    result = Image.merge(image.mode, [Image.fromarray(band) for band in scaled])
    result.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return result


def _depth(peak: int) -> int:
    """The smallest common depth of a value."""
    return next(bits for bits in _DEPTHS if peak >> bits == 0)


def _join(high: Image.Image, low: Image.Image) -> NDArray[np.uint16]:
    values: NDArray[np.uint16] = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    return values


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _low_byte_args(args: Any) -> Any:
    """Arguments of a decoder that reads each value in the other byte order, so that the low byte is taken as the high.

    No such mode exists for grey with alpha, whose four bytes are read unchanged.
    """
    if not isinstance(args, str):
        return (_low_byte_args(args[0]), *args[1:])
    return "RGBA" if args.startswith("LA") else args[:-1] + _SWAPPED[args[-1]]


def _sample_bits(image: Image.Image) -> int:
    bits = getattr(image, "tag_v2", {}).get(258, 16)  # TIFF BitsPerSample: 12-bit scans have mode I;16
    return int(bits[0] if isinstance(bits, tuple) else bits)
