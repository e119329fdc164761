"""Store weights as 8-bit integers with one scale per output row: a quarter of the size, read back as float32.

An int8 tensor `X` has a float tensor `X.scale` [rows]; the weight is X * X.scale. Vectors and tensors with one row
([CLS], position embeddings) are stored as float16: they are small and one scale would be too coarse.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from blip_lite.errors import CheckpointMismatch

SUFFIX = ".scale"
LEVELS = 127


def quantize(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors of two or more dimensions as int8 with scales, other floats as float16, integers unchanged."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            stored[name] = tensor
        elif tensor.dim() < 2 or len(tensor) == 1:
            stored[name] = _half(tensor)
        else:
            stored[name], stored[name + SUFFIX] = _rows_to_int8(tensor)
    return stored


def dequantize(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `quantize` up to rounding; a state without int8 tensors is returned unchanged."""
    integers = [name for name, tensor in state.items() if tensor.dtype == torch.int8]
    missing = [name for name in integers if name + SUFFIX not in state]
    if missing:
        raise CheckpointMismatch(f"{missing[0]}: stored as int8 without {missing[0]}{SUFFIX}")
    scales = {name + SUFFIX for name in integers}
    if not integers:
        return dict(state)
    restored = {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in state.items()
        if name not in scales
    }
    for name in integers:
        tensor, scale = state[name], state[name + SUFFIX].float()
        if scale.shape != tensor.shape[:1]:
            raise CheckpointMismatch(f"{name}{SUFFIX}: {list(scale.shape)}; must be {list(tensor.shape[:1])}")
        restored[name] = tensor.float() * _column(scale, tensor)
    return restored


def _rows_to_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    values = tensor.detach().float()
    scale = values.abs().flatten(1).amax(dim=1) / LEVELS
    used = scale[scale > 0]
    if len(used) and used.min() >= torch.finfo(torch.float16).tiny:  # below that float16 loses digits
        scale = _half(scale)
    divisor = scale.float().where(scale > 0, torch.ones(()))
    integers = (values / _column(divisor, values)).round().clamp(-LEVELS, LEVELS)
    return integers.to(torch.int8), scale


def _half(tensor: Tensor) -> Tensor:
    """float16, but float32 for scalars and for values beyond its range."""
    tensor = tensor.detach().float()
    fits = tensor.dim() > 0 and bool((tensor.abs() <= torch.finfo(torch.float16).max).all())
    return tensor.half() if fits else tensor


def _column(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.dim() - 1))
