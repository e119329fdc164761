"""RandAugment as in the original, on uint8 RGB arrays [H, W, 3], with an explicit generator and without OpenCV.

Warps use OpenCV's fixed-point arithmetic (steps of 1/32 pixel) and equal version 4.5.5 bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Affine = tuple[float, float, float, float, float, float]

FILL = 128
MAX_LEVEL = 10
_LANE = 21  # bits per channel of a packed pixel; 255 * 1024 needs 18
_LANES = (0, _LANE, 2 * _LANE)


def identity(image: Pixels) -> Pixels:
    return image


def auto_contrast(image: Pixels, legacy: bool = False) -> Pixels:
    """Stretch every channel to 0..255, as Pillow does.

    `legacy` keeps the original's defect: a channel whose minimum is above 0 becomes 255 everywhere, because the
    minimum was negated as an unsigned byte. The published models were trained with it.
    """
    return _by_channel(image, lambda channel: _stretch(channel, legacy))


def _stretch(channel: Pixels, legacy: bool) -> Pixels:
    low, high = int(channel.min()), int(channel.max())
    if high <= low:
        return channel
    scale = 255 / (high - low)
    offset = (256 - low if legacy and low else -low) * scale
    return (np.arange(256) * scale + offset).clip(0, 255).astype(np.uint8)[channel]


def equalize(image: Pixels) -> Pixels:
    """Flatten every channel's histogram, as Pillow does."""
    return _by_channel(image, _flatten)


def _flatten(channel: Pixels) -> Pixels:
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (int(counts.sum()) - int(counts[counts != 0][-1])) // 255
    if step == 0:
        return channel
    before = np.concatenate(([step // 2], counts[:-1]))
    return (np.cumsum(before) // step).clip(0, 255).astype(np.uint8)[channel]


def brightness(image: Pixels, factor: float) -> Pixels:
    table = (np.arange(256, dtype=np.float32) * np.float32(factor)).clip(0, 255).astype(np.uint8)
    out: Pixels = table[image]
    return out


def sharpness(image: Pixels, factor: float) -> Pixels:
    """Blend the image, smoothed by a 3x3 kernel (factor 0), with itself (1) and beyond; borders are kept."""
    if factor == 1.0:
        return image
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect").astype(np.float32)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * padded[1:-1, 1:-1]
    smooth: NDArray[np.float32] = np.rint(total / np.float32(13))
    if factor == 0.0:
        return smooth.astype(np.uint8)
    out = image.copy()
    inner = smooth[1:-1, 1:-1]
    blended = inner + np.float32(factor) * (image[1:-1, 1:-1].astype(np.float32) - inner)
    out[1:-1, 1:-1] = blended.astype(np.int32).astype(np.uint8)  # overflows as the original's cast does
    return out


def shear_x(image: Pixels, factor: float) -> Pixels:
    return warp(image, (1.0, float(np.float32(factor)), 0.0, 0.0, 1.0, 0.0))


def shear_y(image: Pixels, factor: float) -> Pixels:
    return warp(image, (1.0, 0.0, 0.0, float(np.float32(factor)), 1.0, 0.0))


def translate_x(image: Pixels, offset: float) -> Pixels:
    return warp(image, (1.0, 0.0, float(np.float32(-offset)), 0.0, 1.0, 0.0))


def translate_y(image: Pixels, offset: float) -> Pixels:
    return warp(image, (1.0, 0.0, 0.0, 0.0, 1.0, float(np.float32(-offset))))


def rotate(image: Pixels, degrees: float) -> Pixels:
    """Rotate counter-clockwise about (W/2, H/2)."""
    height, width = image.shape[:2]
    x, y = width / 2, height / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return warp(image, (cos, sin, (1 - cos) * x - sin * y, -sin, cos, sin * x + (1 - cos) * y))


def warp(image: Pixels, matrix: Affine, fill: int = FILL) -> Pixels:
    """Apply the forward affine map x' = a x + b y + c, y' = d x + e y + f; bilinear, same size.

    Source: OpenCV 4.5.5 warpAffine with a constant border: coordinates in 1/1024, rounded to 1/32 of a pixel.
    """
    height, width = image.shape[:2]
    a, b, c, d, e, f = _inverse(matrix)
    x, y = np.arange(width), np.arange(height)
    across = np.rint(a * x * 1024).astype(np.int32) + (np.rint((b * y + c) * 1024).astype(np.int32) + 16)[:, None]
    down = np.rint(d * x * 1024).astype(np.int32) + (np.rint((e * y + f) * 1024).astype(np.int32) + 16)[:, None]
    across >>= 5
    down >>= 5
    fx, fy = across & 31, down & 31
    # a border of two columns and rows represents everything outside
    left = np.clip(across >> 5, -2, width) + 2
    top = np.clip(down >> 5, -2, height) + 2
    packed = _packed(image, fill)
    first = top * (width + 4) + left
    total = packed.take(first) * ((32 - fx) * (32 - fy)).astype(np.uint64)
    if fx.any():
        total += packed.take(first + 1) * (fx * (32 - fy)).astype(np.uint64)
    if fy.any():
        total += packed.take(first + (width + 4)) * ((32 - fx) * fy).astype(np.uint64)
        if fx.any():
            total += packed.take(first + (width + 5)) * (fx * fy).astype(np.uint64)
    total += np.uint64(sum(512 << lane for lane in _LANES))
    out = np.empty_like(image)
    for channel, lane in enumerate(_LANES):
        out[:, :, channel] = total >> np.uint64(lane + 10)  # the cast keeps the lane's eight bits
    return out


def _inverse(matrix: Affine) -> Affine:
    """Return the inverse map, with OpenCV's order of operations."""
    a, b, c, d, e, f = matrix
    scale = 1.0 / (a * e - b * d)
    a, b, d, e = e * scale, b * -scale, d * -scale, a * scale
    return a, b, -a * c - b * f, d, e, -d * c - e * f


def _packed(image: Pixels, fill: int) -> NDArray[np.uint64]:
    """Pack the channels of each pixel into one integer, so that one multiplication weights all three."""
    height, width = image.shape[:2]
    packed = np.full((height + 4, width + 4), sum(fill << lane for lane in _LANES), dtype=np.uint64)
    red, green, blue = (image[:, :, i].astype(np.uint64) << np.uint64(lane) for i, lane in enumerate(_LANES))
    packed[2:-2, 2:-2] = red | green | blue
    return packed


def _by_channel(image: Pixels, function: Callable[[Pixels], Pixels]) -> Pixels:
    return np.stack([function(image[:, :, i]) for i in range(3)], axis=2)


# Random draws are indices into this order.
_OPS: dict[str, Callable[..., Pixels]] = {
    "Identity": identity,
    "AutoContrast": auto_contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "Equalize": equalize,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
}
OPS = tuple(_OPS)


@dataclass(frozen=True)
class RandAugment:
    """Draws `num_ops` operations with replacement and applies each with probability 0.5 at `level` of 10.

    Draws are in the original's order: names, then for each operation whether it is applied, then its sign.
    """

    num_ops: int = 2
    level: int = 5
    legacy_autocontrast: bool = False

    def draw(self, rng: np.random.RandomState) -> list[tuple[str, tuple[float, ...]]]:
        """Draw the operations to apply, with their arguments."""
        names = [OPS[i] for i in rng.choice(len(OPS), self.num_ops)]
        return [(name, arguments(name, self.level, rng)) for name in names if rng.random_sample() <= 0.5]

    def __call__(self, image: Pixels, rng: np.random.RandomState) -> Pixels:
        """Augment uint8 [H, W, 3]. The input is not changed, but may be returned itself."""
        for name, args in self.draw(rng):
            if name == "AutoContrast":
                image = auto_contrast(image, self.legacy_autocontrast)
            else:
                image = _OPS[name](image, *args)
        return image


def arguments(name: str, level: float, rng: np.random.RandomState) -> tuple[float, ...]:
    """Return the argument of an operation at a level from 0 to 10, with a random sign if it has one."""
    share = level / MAX_LEVEL
    if name in ("Brightness", "Sharpness"):
        return (share * 1.8 + 0.1,)
    if name == "Rotate":
        return (share * 30 * (-1 if rng.random_sample() < 0.5 else 1),)
    if name.startswith(("Shear", "Translate")):
        return (share * (0.3 if name.startswith("Shear") else 10.0) * (-1 if rng.random_sample() > 0.5 else 1),)
    return ()


def apply(image: Pixels, name: str, *args: float) -> Pixels:
    """Apply one operation by its name."""
    return _OPS[name](image, *args)
