"""Heat-maps as pictures: scaled, smoothed, coloured and laid over the photo (blip-spec 5.9, as LAVIS getAttMap)."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

BLUR = 0.02  # sigma of the smoothing, as a share of the longer side
_REACH = 4.0  # sigmas; farther off the weight is nothing
# Corners of matplotlib's colour map `jet`: (where, how much) of red, green, blue.
_JET = (
    ((0.0, 0.35, 0.66, 0.89, 1.0), (0.0, 0.0, 1.0, 1.0, 0.5)),
    ((0.0, 0.125, 0.375, 0.64, 0.91, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)),
    ((0.0, 0.11, 0.34, 0.65, 1.0), (0.5, 1.0, 1.0, 0.0, 0.0)),
)


def heat(grid: Floats, size: tuple[int, int]) -> Floats:
    """A map [h, w] at an image's size (width, height): [H, W] in [0, 1], cubic, smoothed. A flat map is all 0."""
    across, down = (_weights(count, side, BLUR * max(size)) for count, side in zip(grid.shape[::-1], size, strict=True))
    return unit(cast(Floats, down @ unit(grid) @ across.T))


def _weights(count: int, side: int, sigma: float) -> Floats:
    """How much each of `count` places counts at each of `side` pixels of an axis, once scaled and smoothed."""
    places = Image.fromarray(np.eye(count, dtype=np.float32))
    return blur(np.asarray(places.resize((count, side), Image.Resampling.BICUBIC), dtype=np.float32), sigma)


def overlay(image: Image.Image, grid: Floats, size: int | None = None) -> Image.Image:
    """The photo with the map [h, w] in colour over it, the more the hotter; its longer side scaled to `size` pixels."""
    photo = image.convert("RGB") if size is None else scaled(image.convert("RGB"), size)
    values = heat(grid, photo.size)[..., None]
    share = values**0.7
    mixed = (1 - share) * np.asarray(photo, dtype=np.float32) / 255 + share * jet(values[..., 0])
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def scaled(image: Image.Image, size: int) -> Image.Image:
    """The image with its longer side of `size` pixels."""
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def unit(values: Floats) -> Floats:
    """Least 0, greatest 1; all 0 where all are equal."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)


def jet(values: Floats) -> Floats:
    """Values in [0, 1] of any shape to red, green and blue [..., 3] in [0, 1]."""
    return np.stack([np.interp(values, where, much) for where, much in _JET], axis=-1).astype(np.float32)


def blur(values: Floats, sigma: float) -> Floats:
    """Gaussian blur along the first axis of [H, W]; the border is mirrored, as scipy's gaussian_filter1d does."""
    reach = int(_REACH * sigma + 0.5)
    if reach == 0:
        return values
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="symmetric")
    return cast(Floats, sum(w * padded[i : i + len(values)] for i, w in enumerate(weights)))
