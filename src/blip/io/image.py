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


def prepare_for(
    images: Sequence[Image.Image], *, size: int, mean: Sequence[float], std: Sequence[float], to: Tensor
) -> Tensor:
    """Return the values of `prepare` with dtype and device of `to`; for a GPU they are normalised there."""
    if to.device.type != "cuda":
        return prepare(images, size=size, mean=mean, std=std).to(to.device, to.dtype)
    rgb = (x if x.mode == "RGB" else x.convert("RGB") for x in images)
    return from_pixels([np.asarray(image.square(x, size)) for x in rgb], mean, std, to)


def from_pixels(pixels: Sequence[NDArray[np.uint8]], mean: Sequence[float], std: Sequence[float], to: Tensor) -> Tensor:
    """Return pixel_values [B,3,S,S] of squares [S,S,3], with dtype and device of `to`: the values of `prepare`.

    They are normalised on the device, so that a fast one does not wait for this.
    """
    import torch

    from blip.runtime import upload

    scale, mean_, std_ = (upload(torch.tensor(x), to.device).view(1, -1, 1, 1) for x in ([255.0], mean, std))
    stacked = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=to.device.type == "cuda")
    np.stack(pixels, out=stacked.numpy())
    values = upload(stacked, to.device).permute(0, 3, 1, 2).float().contiguous()
    return values.div_(scale).sub_(mean_).div_(std_).to(to.dtype)
