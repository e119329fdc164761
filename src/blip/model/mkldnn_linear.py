"""Linear layers on a CPU with weights in oneDNN's own order: faster, equal but for rounding, inference only.

torch's float32 `F.linear` reads a weight as it lies, and is slow for the few rows of a decoding step. oneDNN does the
same sums on a copy laid out for it, and GELU in the same pass. Its operators are private in torch, so all use of them
is in this file: before the first use they are compared with `F.linear`, and where they are missing, refuse or differ,
everything runs as it does in training. A model is plain until `pack` is called on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)


class PackedWeight:
    """The reordered copy of one weight, made at first use and again when the weight has changed.

    A copy of it is empty: what is copied or stored with a model is the model's own weight.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._source: Tensor | None = None  # kept, so that no other weight comes to lie at its address
        self._version = 0

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[()]]:
        return PackedWeight, ()

    def of(self, weight: Tensor) -> Tensor:
        """The copy of weight [N, K]."""
        version = 0 if weight.is_inference() else weight._version  # counts changes in place
        known = self._source is not None and self._source.data_ptr() == weight.data_ptr()
        if self._weight is None or not known or version != self._version:
            self._weight, self._source, self._version = _reorder(weight), weight.detach(), version
        return self._weight


class Packable(nn.Module):
    """A module that computes with one weight; `packed` is where its reordered copy goes, None = compute plainly."""

    packed: PackedWeight | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """`to` and the like: the weight moves or changes its type, so the copy of the old one can go."""
        if self.packed is not None:
            self.packed = PackedWeight()
        return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]


class Linear(Packable, nn.Linear):
    """nn.Linear that can be packed, and that can do the exact (erf) GELU of its output in the same pass."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        return linear(x, self.weight, self.bias, self.packed, gelu)


def linear(x: Tensor, weight: Tensor, bias: Tensor, packed: PackedWeight | None, gelu: bool = False) -> Tensor:
    """x [..., K], weight [N, K], bias [N] -> [..., N]; with the packed weight where that is possible."""
    if packed is not None and not torch.is_grad_enabled() and x.dtype == weight.dtype and supports(x.device, x.dtype):
        return _linear(x, packed.of(weight), bias, gelu)
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def pack(model: nn.Module) -> None:
    """From now on `model` computes with packed weights where it can: on a CPU, without gradients.

    Parameters and state_dict stay as they are. The copies are made at first use and are as large as the weights used;
    called again this drops them.
    """
    for module in model.modules():
        if isinstance(module, Packable):
            module.packed = PackedWeight()


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators are there and right for tensors of this kind."""
    return device.type == "cpu" and dtype in DTYPES and _works(dtype)


@cache
def _works(dtype: torch.dtype) -> bool:
    """The self-test: sizes that fill no vector, one row and several, with and without GELU."""
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False  # emulated there, slower than float32
        generator = torch.Generator().manual_seed(0)
        weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((37, 75), (37,), (5, 75)))
        weight, bias, x = (weight / 75**0.5).to(dtype), bias.to(dtype), x.to(dtype)
        with torch.inference_mode():
            packed = _reorder(weight)
            return all(
                _alike(_linear(rows, packed, bias, gelu), linear(rows, weight, bias, None, gelu))
                for rows in (x, x[:1], x.view(1, 5, 75))
                for gelu in (False, True)
            )
    except (AttributeError, RuntimeError, TypeError):  # not there, not built in, or called in another way
        return False


def _alike(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-5 if a.dtype == torch.float32 else 0.1
    return a.shape == b.shape and a.dtype == b.dtype and bool((a - b).abs().max() < tolerance)


def _reorder(weight: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))


def _linear(x: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    after, algorithm = ("gelu", "none") if gelu else ("none", "")
    # what does not lie in one piece would be read number by number
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, after, [], algorithm))
