"""Images as the input tensor of a model; files are read by `blip_lite.image`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from blip_lite import image

if TYPE_CHECKING:
    from torch import Tensor


def prepare(images: Sequence[Image.Image], *, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return pixel_values [B,3,S,S] float32: `blip_lite.image.prepare` as a tensor."""
    import torch

    return torch.from_numpy(image.prepare(images, size=size, mean=mean, std=std))
