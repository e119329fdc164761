"""Linear layers on a CPU with weights packed for oneDNN: faster, equal up to rounding, inference only.

torch's float32 `F.linear` uses the weight's stored layout and is slow for the few rows of a decoding step. oneDNN
computes the same on a reordered copy, with GELU in the same pass. Its operators are private in torch, so only this
module, `int8_linear` and `training_linear` use them: before the first use they are compared with `F.linear`, and if
they are missing, fail or differ, `F.linear` is used. A model uses packed weights only after `pack` was called on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.model.modules import Module
from blip.model.training_linear import close, training_linear

DTYPES = (torch.float32, torch.bfloat16)


T = TypeVar("T")


class Prepared(ABC, Generic[T]):
    """Copy of one weight as an operator wants it, created at first use and again after the weight has changed.

    Copying or pickling it yields an empty one: only the model's own weight is copied or stored with the model.
    """

    def __init__(self) -> None:
        self._weight: T | None = None
        self._source: Tensor | None = None  # keeps the memory, so that no other weight gets its address
        self._version = 0

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

    def of(self, weight: Tensor) -> T:
        """The copy of weight [N, K]."""
        version = 0 if weight.is_inference() else weight._version  # incremented by in-place changes
        same = self._source is not None and self._source.data_ptr() == weight.data_ptr()
        if self._weight is None or not same or version != self._version:
            self._weight, self._source, self._version = self.prepare(weight), weight.detach(), version
        return self._weight

    @abstractmethod
    def prepare(self, weight: Tensor) -> T:
        """Make the copy."""

    @abstractmethod
    def supports(self, x: Tensor) -> bool:
        """Whether `linear` works for x and weights of the same device and dtype."""

    @abstractmethod
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
        """x [..., K], weight [N, K], bias [N] -> [..., N]."""


class PackedWeight(Prepared[Tensor]):
    """Reordered copy of one weight."""

    def prepare(self, weight: Tensor) -> Tensor:
        return _reorder(weight)

    def supports(self, x: Tensor) -> bool:
        return supports(x.device, x.dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
        return _linear(x, self.of(weight), bias, gelu)


class Packable(Module):
    """Module that computes with one weight; `packed` holds its prepared copy, None = never packed."""

    packed: Prepared[Any] | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Drop the packed copy when `to()` and similar calls replace the weight."""
        if self.packed is not None:
            self.packed = type(self.packed)()
        return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]


class Linear(Packable, nn.Linear):
    """nn.Linear that can be packed and can apply the exact (erf) GELU to its output in the same pass."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        return linear(x, self.weight, self.bias, self.packed, gelu)


def linear(x: Tensor, weight: Tensor, bias: Tensor, packed: Prepared[Any] | None, gelu: bool = False) -> Tensor:
    """x [..., K], weight [N, K], bias [N] -> [..., N]; uses the packed weight if supported."""
    if packed is not None and not torch.is_grad_enabled() and x.dtype == weight.dtype and packed.supports(x):
        return packed.linear(x, weight, bias, gelu)
    y = training_linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def pack(model: nn.Module, kind: type[Prepared[Any]] = PackedWeight) -> None:
    """Let `model` use packed weights wherever supported: on a CPU, without gradients.

    Parameters and state_dict do not change. The copies are created at first use and take as much memory as the weights
    used; calling this again drops them.
    """
    for module in model.modules():
        if isinstance(module, Packable):
            module.packed = kind()


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators exist and are correct for tensors of this device and dtype."""
    return device.type == "cpu" and dtype in DTYPES and _works(dtype)


def fast_float(device: torch.device) -> torch.dtype:
    """bfloat16 if this device, a CPU, computes with it, else float32."""
    return torch.bfloat16 if supports(device, torch.bfloat16) else torch.float32


@cache
def _works(dtype: torch.dtype) -> bool:
    """Self-test: sizes that are not multiples of a SIMD vector, one row and several, with and without GELU."""
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False  # emulated there, slower than float32
        generator = torch.Generator().manual_seed(0)
        weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((37, 75), (37,), (5, 75)))
        weight, bias, x = (weight / 75**0.5).to(dtype), bias.to(dtype), x.to(dtype)
        with torch.inference_mode():
            packed = _reorder(weight)
            return all(
                close(_linear(rows, packed, bias, gelu), linear(rows, weight, bias, None, gelu))
                for rows in (x, x[:1], x.view(1, 5, 75))
                for gelu in (False, True)
            )
    except (AttributeError, RuntimeError, TypeError):  # missing, not built in, or with another signature
        return False


def _reorder(weight: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))


def _linear(x: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    # a non-contiguous input would be read element by element
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, after, [], algorithm))
