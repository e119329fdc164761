"""The perceptual hash, against values of ImageHash 4.3.2 with Pillow 13."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip.io.perceptual_hash import hamming_distances, perceptual_hash

EXAMPLES = Path(__file__).parents[2] / "examples"
RECORDED = {
    "astronaut.png": 0xC2924C5532BDDFC8,
    "camera.png": 0xBFF1C1C0434E8CBC,
    "chelsea.png": 0xB15FE6465121175E,
    "coffee.png": 0xBB8320376C0F3637,
    "rocket.jpg": 0xC0371BEC1BE51267,
}


@pytest.mark.parametrize("name", RECORDED)
def test_bits_equal_imagehash(name: str) -> None:
    with Image.open(EXAMPLES / name) as image:
        bits = (perceptual_hash(image) ^ RECORDED[name]).bit_count()
    assert bits <= 2  # a coefficient at the median may round to either side


def test_distances_are_numbers_of_different_bits() -> None:
    a, b = np.array([0, 2**64 - 1], np.uint64), np.array([1, 0b111, 2**63], np.uint64)
    assert hamming_distances(a, b).tolist() == [[1, 3, 1], [63, 61, 63]]
