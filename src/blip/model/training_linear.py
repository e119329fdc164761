"""Linear layers with gradients on a CPU: oneDNN's product on the weight as it is stored, forward and backward.

torch's float32 `F.linear` calls MKL, which is a tenth slower on some processors. oneDNN's operator is private in torch:
it is compared with `F.linear` before the first use, and if it is missing, fails or differs, `F.linear` is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def training_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of x [..., K], weight [N, K], bias [N] -> [..., N]; faster on a CPU if a gradient is wanted."""
    differentiated = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not differentiated or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if not works(dtype):
        return F.linear(x, weight, bias)
    return cast(Tensor, _Linear.apply(x, weight, bias, dtype))  # type: ignore[no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        rows, weights = x.reshape(-1, x.shape[-1]).to(dtype), weight.to(dtype)
        ctx.save_for_backward(rows, weights)
        ctx.shape, ctx.dtypes = x.shape, (x.dtype, weight.dtype, bias.dtype)
        return _product(rows, weights, bias.to(dtype)).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows, weights), (of_x, of_weight, of_bias) = ctx.saved_tensors, ctx.dtypes
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        return (
            _product(grad, weights.t()).view(ctx.shape).to(of_x) if for_x else None,
            (grad.t() @ rows).to(of_weight) if for_weight else None,
            grad.sum(dim=0).to(of_bias) if for_bias else None,
            None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [R, K] times weight [N, K] transposed, plus bias."""
    # a non-contiguous x would be read element by element
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], ""))


@cache
def works(dtype: torch.dtype) -> bool:
    """Self-test: sizes that are not multiples of a SIMD vector, one row and several, the weight and its transpose."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x, grad = (torch.randn(n, k, generator=generator).to(dtype) for n, k in ((37, 75), (5, 75), (5, 37)))
    bias, weight = grad[0], weight / 8
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False  # emulated there, slower than float32
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return all(
                close(_product(x[:rows], weight, bias), F.linear(x[:rows], weight, bias))
                and close(_product(grad[:rows], weight.t()), grad[:rows] @ weight)
                for rows in (1, 5)
            )
    except (AttributeError, RuntimeError, TypeError):  # missing, not built in, or with another signature
        return False


def close(a: Tensor, b: Tensor) -> bool:
    """Whether the outputs of two implementations are equal within rounding."""
    tolerance = 1e-5 if a.dtype == torch.float32 else 0.1
    return a.shape == b.shape and a.dtype == b.dtype and bool((a - b).abs().max() < tolerance)
