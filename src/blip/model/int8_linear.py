"""Linear layers on a CPU in 8 bits: weights with a scale per row, inputs with a scale and an offset per token.

oneDNN multiplies bytes at twice the rate of bfloat16 on processors with AVX-512 VNNI, and its sums are exact. As each
token has its own scale, a result does not depend on what else is in the batch. The operators are private in torch or
made for other uses, so only this module uses them, after comparing them with exact integers. A model computes in 8
bits only after `pack_int8` was called on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.model.mkldnn_linear import DTYPES, Packable, Prepared, pack
from blip_lite.errors import EnvironmentProblem

LEVELS = 127
TAIL = 8  # bytes after each quantised token: its scale and offset as float32; their weights are 0
BLOCK = 3 << 18  # numbers that a thread computes at a time: they stay in the cache from one operator to the next


@dataclass(frozen=True)
class Int8Rows:
    """Weight [N, K] = integers * scale, up to rounding."""

    packed: Tensor  # integers [N, K + TAIL], reordered for oneDNN
    scale: Tensor  # [N]
    zero: Tensor  # [N], offsets of the integers
    total: Tensor  # [N], sum of each row: what an offset of the input adds


class Int8Weight(Prepared[Int8Rows]):
    """8-bit copy of one weight."""

    def prepare(self, weight: Tensor) -> Int8Rows:
        _check_supported()  # a pickled model may come from another machine
        return _pack(*quantize_rows(weight))

    def supports(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and x.dtype in DTYPES

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
        return _linear(x, self.of(weight), bias, gelu)


def pack_int8(model: nn.Module) -> None:
    """Let `model`, on a CPU, compute its linear layers in 8 bits, without gradients.

    Parameters and state_dict do not change. The copies are created at first use and take a byte per number. Raises
    EnvironmentProblem if this processor or torch cannot.
    """
    _check_supported()
    pack(model, Int8Weight)


def is_int8(model: nn.Module) -> bool:
    """Whether `pack_int8` was called on the model, and not `pack` since."""
    return any(isinstance(module, Packable) and isinstance(module.packed, Int8Weight) for module in model.modules())


def _check_supported() -> None:
    if not supports():
        raise EnvironmentProblem(
            "dtype 'int8' needs a processor with AVX-512 VNNI, and torch with oneDNN and FBGEMM; use fp32 or bf16"
        )


@cache
def supports() -> bool:
    """Self-test: the processor multiplies bytes, and results are those of exact integers, the largest included."""
    try:
        if not torch.cpu._is_vnni_supported():
            return False  # sums saturate, or are computed one by one
        generator = torch.Generator().manual_seed(0)
        x, weight = (torch.randn(shape, generator=generator) for shape in ((6, 75), (37, 75)))
        x[1], x[2], x[3], weight[1], weight[2] = 0.0, -3.0, torch.arange(75) > 0, 2.0, -2.0
        bias = torch.arange(37.0)
        with torch.inference_mode():
            integers, scale = quantize_rows(weight)
            rows, exact = _pack(integers, scale), F.linear(rounded(x), integers * scale[:, None], bias)
            return all(
                torch.allclose(_linear(part, rows, bias, gelu), F.gelu(y) if gelu else y, rtol=1e-5, atol=1e-4)
                for part, y in ((x, exact), (x[:1], exact[:1]), (x.view(2, 3, 75), exact.view(2, 3, 37)))
                for gelu in (False, True)
            )
    except (AttributeError, RuntimeError, TypeError):  # missing, not built in, or with another signature
        return False


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [N, K] -> integers [N, K] of -127 to 127 and a scale per row [N]."""
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1) / LEVELS
    divisor = scale.where(scale > 0, torch.ones(()))
    return (weight / divisor[:, None]).round().to(torch.int8), scale


def rounded(x: Tensor) -> Tensor:
    """Inputs [R, K] as they are multiplied: each row rounded to 256 values between its least and its greatest."""
    values, scale, offset = _quantize_tokens(x)
    return values[:, : x.shape[1]] * scale + offset


def _quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [R, K] -> bytes [R, K' + TAIL], scales [R, 1] and offsets [R, 1]; K' is a multiple of 4."""
    padded = F.pad(x.float(), (0, -x.shape[1] % 4)) if x.shape[1] % 4 else x.float().contiguous()
    values = torch.ops.quantized.embedding_bag_byte_prepack(padded)
    tail = values[:, -TAIL:].view(torch.float32)
    return values, tail[:, :1], tail[:, 1:]


def _pack(integers: Tensor, scale: Tensor) -> Int8Rows:
    padded = F.pad(integers, (0, -integers.shape[1] % 4 + TAIL))
    packed = torch.ops.onednn.qlinear_prepack(padded, None)
    return Int8Rows(packed, scale, torch.zeros(len(scale), dtype=torch.long), integers.sum(dim=1) * scale)


def _linear(x: Tensor, weight: Int8Rows, bias: Tensor, gelu: bool) -> Tensor:
    rows, bias = x.reshape(-1, x.shape[-1]), bias.float()
    step = max(1, BLOCK * torch.get_num_threads() // max(x.shape[-1], len(bias)))
    if len(rows) <= step:
        return _block(rows, weight, bias, gelu).to(x.dtype).view(*x.shape[:-1], -1)
    y = x.new_empty(*x.shape[:-1], len(bias))
    flat = y.view(-1, len(bias))
    for i in range(0, len(rows), step):
        flat[i : i + step] = _block(rows[i : i + step], weight, bias, gelu)
    return y


def _block(x: Tensor, weight: Int8Rows, bias: Tensor, gelu: bool) -> Tensor:
    """x [R, K], bias [N] in float32 -> [R, N] in float32."""
    values, scale, offset = _quantize_tokens(x)
    y: Tensor = torch.ops.onednn.qlinear_pointwise(
        values, 1.0, 0, weight.packed, weight.scale, weight.zero, None, 1.0, 0, torch.float32, "none", [], ""
    )
    y.mul_(scale).addcmul_(offset, weight.total).add_(bias)
    return F.gelu(y) if gelu else y
