"""Images as the input tensor of a model; files are read by `blip_lite.image`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blip_lite import image

if TYPE_CHECKING:
    from torch import Tensor


def prepare(images: Sequence[Image.Image], *, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return pixel_values [B,3,S,S] float32: `blip_lite.image.prepare` as a tensor."""
    import torch

    return torch.from_numpy(image.prepare(images, size=size, mean=mean, std=std))


def from_pixels(pixels: Sequence[NDArray[np.uint8]], mean: Sequence[float], std: Sequence[float], to: Tensor) -> Tensor:
    """Return pixel_values [B,3,S,S] of squares [S,S,3], with dtype and device of `to`: the values of `prepare`.

    They are normalised on the device, so that a fast one does not wait for this.
    """
    import torch

    scale, mean_, std_ = (torch.tensor(x, device=to.device).view(1, -1, 1, 1) for x in ([255.0], mean, std))
    values = torch.from_numpy(np.stack(pixels)).to(to.device).permute(0, 3, 1, 2).float().contiguous()
    return values.div_(scale).sub_(mean_).div_(std_).to(to.dtype)
