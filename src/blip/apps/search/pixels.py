"""Pixel comparison of two photos: is one a copy of the other, apart from encoding, size, margins and brightness?

The grey values are registered (scale and shift of each axis, for cropped copies) by Gauss-Newton steps from coarse to
fine. A tone curve for each channel then maps one photo to the other, and what both show is compared block by block. The
limits were chosen by `experiments/duplicates`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

LEVELS = (32, 64, 128)  # pixels; registration starts at the coarsest
STEPS = 12  # Gauss-Newton steps per level
STIFFNESS = 1000.0  # squared levels per width; where gradients are smaller than this, steps are too
MIN_SIDE, MAX_SIDE = 32, 512  # pixels of the final comparison
BLOCK = 16  # pixels
BINS = 32  # of a tone curve
NOISE = 5.0  # grey levels; encoding changes blocks without detail by as much

MIN_OVERLAP = 0.75  # of the area of either photo
MIN_CORRELATION = 0.9
MAX_DIFFERENCE = 0.75  # of the most different block
MAX_TONE = 16.0  # levels
COLORLESS = 4.0  # levels; with less there is no color to compare
SATURATION = (0.5, 2.0)  # a copy may have between half and twice the color


@dataclass(frozen=True, slots=True)
class Comparison:
    """Agreement of two photos where both show the same.

    overlap: share of the area of each photo that the other shows, the smaller one. correlation: of the grey values.
    difference: of the most different block's detail, from 0 (equal) to 1 (unrelated). tone: largest difference of a
    block's mean red, green or blue, in levels. saturation: of the second photo relative to the first.
    """

    overlap: float
    correlation: float
    difference: float
    tone: float
    saturation: float

    @property
    def is_copy(self) -> bool:
        return (
            self.overlap >= MIN_OVERLAP
            and self.correlation >= MIN_CORRELATION
            and self.difference <= MAX_DIFFERENCE
            and self.tone <= MAX_TONE
            and SATURATION[0] <= self.saturation <= SATURATION[1]
        )


UNRELATED = Comparison(overlap=0.0, correlation=0.0, difference=1.0, tone=255.0, saturation=0.0)


def reduce(image: Image.Image) -> Image.Image:
    """Return an image at the size that `compare` needs at most, so that many can be kept."""
    factor = max(1.0, min(image.size) / MAX_SIDE)
    size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return image.convert("RGB").resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def compare(a: Image.Image, b: Image.Image) -> Comparison:
    """Compare two photos, as returned by `reduce`."""
    mapping = register(a, b)
    if mapping is None:
        return UNRELATED
    first, second = _overlap(mapping)
    side = int(np.clip(min(*a.size, *b.size), MIN_SIDE, MAX_SIDE)) // BLOCK * BLOCK
    x, y = (_sample(image, box, side) for image, box in ((a, first), (b, second)))
    tone, difference = min(_compare_blocks(x, y), _compare_blocks(y, x))  # values that were clipped have no inverse
    return Comparison(
        overlap=float(min(_area(first), _area(second))),
        correlation=_correlation(x.mean(-1), y.mean(-1)),
        difference=difference,
        tone=tone,
        saturation=_saturation(x, y),
    )


def register(a: Image.Image, b: Image.Image) -> Values | None:
    """Return (scale, shift) of x, then of y, in shares of the size: the point of `a` that shows a point of `b`.

    None if the photos do not overlap enough.
    """
    mapping = np.array([1.0, 0.0, 1.0, 0.0])
    photos = [image.convert("L") for image in (a, b)]
    for size in LEVELS:
        small = [photo.resize((size, size), Image.Resampling.BOX).convert("F") for photo in photos]
        for _ in range(STEPS):
            first, second = _overlap(mapping)
            if min(_area(first), _area(second)) < MIN_OVERLAP / 2:
                return None
            step = _step(_sample(small[0], first, size), _sample(small[1], second, size), first, second)
            if step is None:
                return None
            mapping = mapping + np.clip(step, -2 / size, 2 / size)
            if np.abs(step).max() < 0.02 / size:
                break
    return mapping


def _step(values: Values, target: Values, box: Sequence[float], other: Sequence[float]) -> Values | None:
    """Return the change of the mapping that makes a linear function of `values` equal `target`, in first order."""
    size = len(values)
    left, top, right, bottom = box
    dy, dx = np.gradient(values)
    dx, dy = dx * size / (right - left), dy * size / (bottom - top)
    grid = (np.arange(size) + 0.5) / size
    x, y = other[0] + (other[2] - other[0]) * grid[None, :], other[1] + (other[3] - other[1]) * grid[:, None]
    columns = np.stack([values, np.ones_like(values), dx * x, dx, dy * y, dy], -1).reshape(-1, 6)
    matrix = columns.T @ columns
    matrix[np.diag_indices(6)] += 1e-9 * np.trace(matrix) + 1e-9
    matrix[range(2, 6), range(2, 6)] += STIFFNESS * size**2
    solution = np.linalg.solve(matrix, columns.T @ target.ravel())
    gain: float = solution[0]
    return None if gain < 0.05 else solution[2:] / gain


def _overlap(mapping: Values) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the boxes (left, top, right, bottom) of `a` and of `b` that show the same, in shares of their sizes."""
    sides = []
    for scale, shift in (mapping[:2], mapping[2:]):
        low, high = sorted((-shift / scale, (1 - shift) / scale)) if abs(scale) > 1e-3 else (0.0, 0.0)
        low, high = max(0.0, low), min(1.0, high)
        sides.append(((scale * low + shift, scale * high + shift), (low, high)))
    (ax, bx), (ay, by) = sides
    return (ax[0], ay[0], ax[1], ay[1]), (bx[0], by[0], bx[1], by[1])


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _sample(image: Image.Image, box: Sequence[float], size: int) -> Values:
    """Return the values [size, size] or [size, size, 3] of a part of an image."""
    left, top, right, bottom = (
        min(max(share, 0.0), 1.0) * side for share, side in zip(box, image.size * 2, strict=True)
    )
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, right, bottom)), np.float64)


def _blocks(values: Values) -> Values:
    """Return the blocks of an image [S, S, C] as [N, pixels, C]."""
    count, channels = len(values) // BLOCK, values.shape[-1]
    blocks = values.reshape(count, BLOCK, count, BLOCK, channels).swapaxes(1, 2)
    return blocks.reshape(count * count, BLOCK * BLOCK, channels)


def _compare_blocks(a: Values, b: Values) -> tuple[float, float]:
    """Return the largest difference of the blocks' means, in levels, and of their details, from 0 to 1.

    First `a` is mapped to `b` by a curve for each channel, and its means by a linear function of the channels, for
    changes of saturation.
    """
    mapped = np.stack([_apply_curve(a[..., i], b[..., i]) for i in range(3)], -1)
    blocks, target = _blocks(mapped), _blocks(b)
    means, target_means = blocks.mean(1), target.mean(1)
    columns = np.concatenate([means, np.ones((len(means), 1))], 1)
    errors = columns @ np.linalg.lstsq(columns, target_means)[0] - target_means
    return float(np.abs(errors).max()), float(_differences(blocks.mean(-1), target.mean(-1)).max())


def _apply_curve(a: Values, b: Values) -> Values:
    """Map `a` by the increasing curve that brings it closest to `b`, as measured in bins of its values."""
    bins = np.clip(a / 256 * BINS, 0, BINS - 1).astype(np.intp).ravel()
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    centers, means = (np.bincount(bins, v.ravel(), BINS)[filled] / counts[filled] for v in (a, b))
    mapped: Values = np.interp(a, centers, np.maximum.accumulate(means))
    return mapped


def _differences(a: Values, b: Values) -> Values:
    """Return for each block the part of its detail that the other's does not explain; the larger of both directions."""
    a, b = (blocks - blocks.mean(1, keepdims=True) for blocks in (a, b))
    product = (a * b).mean(1)
    result: Values = np.zeros(len(a))
    for target, other in ((a, b), (b, a)):
        variance, explained = (target**2).mean(1), product**2 / np.maximum((other**2).mean(1), 1e-9)
        result = np.maximum(result, np.sqrt(np.maximum(variance - explained, 0)) / (np.sqrt(variance) + NOISE))
    return result


def _correlation(a: Values, b: Values) -> float:
    """Return the correlation of two images; of images without detail whether they are equally bright, as 1 or 0."""
    a_detail, b_detail = a - a.mean(), b - b.mean()
    deviation = float(a.std() * b.std())
    if deviation < 1.0:
        return float(abs(a.mean() - b.mean()) < NOISE and max(a.std(), b.std()) < NOISE)
    return float((a_detail * b_detail).mean()) / deviation


def _saturation(a: Values, b: Values) -> float:
    """Return the deviation of the colors of `b` relative to that of `a`; 1 if neither has color."""
    first, second = (float((rgb - rgb.mean(-1, keepdims=True)).std((0, 1)).mean()) for rgb in (a, b))
    return 1.0 if max(first, second) < COLORLESS else second / max(first, 1e-9)
