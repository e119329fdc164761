"""A 64-bit perceptual hash of images: the bits of `imagehash.phash`, without its dependencies SciPy and PyWavelets.

The image is made grey and resized to 32 x 32. Bit 63 - (8 * row + column) is set if the DCT-II coefficient of that row
and column (of the 8 x 8 lowest frequencies, that of the mean included) is above their median. Re-encoding, resizing and
changes of brightness change few bits (see docs/measurements.md); equal hashes do not prove equal pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIZE, _LOW = 32, 8
_DCT = np.cos(np.pi * np.arange(_LOW)[:, None] * (2 * np.arange(_SIZE) + 1) / (2 * _SIZE))  # rows: frequencies


def perceptual_hash(image: Image.Image) -> int:
    """Return the hash of an image, as an integer from 0 to 2**64 - 1."""
    grey = np.asarray(image.convert("L").resize((_SIZE, _SIZE), Image.Resampling.LANCZOS), np.float64)
    low = _DCT @ grey @ _DCT.T
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes())


def hamming_distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the numbers of different bits of hashes [N] and hashes [M], as [N, M]."""
    result: NDArray[np.uint8] = np.bitwise_count(a[:, None] ^ b[None, :])
    return result
