"""The training transform: random crop, flip, RandAugment, normalisation, as a function of image and seed alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blip.data.augment import RandAugment
from blip_lite.image import normalize

RATIO = (3 / 4, 4 / 3)  # of width to height
_TRIES = 10


def crop_box(
    width: int, height: int, min_scale: float, generator: torch.Generator | None = None
) -> tuple[int, int, int, int]:
    """Draw a random crop (top, left, height, width) in pixels: area uniform in [min_scale, 1], ratio log-uniform.

    After ten boxes that do not fit, the centre of the image with the ratio clamped. Source: torchvision
    RandomResizedCrop.get_params, the same draws. Without `generator` torch's global one is used.
    """
    low, high = torch.log(torch.tensor(RATIO))
    for _ in range(_TRIES):
        area = height * width * torch.empty(1).uniform_(min_scale, 1.0, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(float(low), float(high), generator=generator)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - w + 1, (1,), generator=generator))
            return top, left, h, w
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(w / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(h * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def crop_and_flip(
    image: Image.Image, size: int, min_scale: float, generator: torch.Generator | None = None, flip: bool = True
) -> Image.Image:
    """Return a random part of the image at `size` pixels square (bicubic), mirrored with probability 0.5."""
    top, left, height, width = crop_box(image.width, image.height, min_scale, generator)
    part = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)
    if flip and torch.rand(1, generator=generator).item() < 0.5:
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return part


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Turns an image and a seed into float32 [3, S, S]; the same in every process.

    min_scale: smallest share of the area that a crop keeps (original: 0.2 in pre-training, 0.5 in fine-tuning).
    rand_augment: number of operations and level, or None. legacy_autocontrast: see `augment.auto_contrast`.
    """

    size: int
    min_scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool = True
    rand_augment: tuple[int, int] | None = (2, 5)
    legacy_autocontrast: bool = False
    _augment: RandAugment | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        augment = None if self.rand_augment is None else RandAugment(*self.rand_augment, self.legacy_autocontrast)
        object.__setattr__(self, "_augment", augment)

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        pixels: NDArray[np.uint8] = np.asarray(crop_and_flip(rgb, self.size, self.min_scale, generator, self.flip))
        if self._augment is not None:
            rng = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
            pixels = self._augment(pixels, rng)
        return torch.from_numpy(normalize(pixels, mean=self.mean, std=self.std))
