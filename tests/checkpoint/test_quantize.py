from __future__ import annotations

import pytest
import torch

from blip.checkpoint.quantize import dequantize, quantize
from blip_lite.errors import CheckpointMismatch

STATE = {
    "linear.weight": torch.randn(6, 40, generator=torch.Generator().manual_seed(0)),
    "conv.weight": torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1)),
    "pos_embed": torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(2)),
    "bias": torch.randn(6, generator=torch.Generator().manual_seed(3)),
    "temperature": torch.tensor(0.07),
    "ids": torch.arange(4),
}


def test_matrices_become_int8_with_one_scale_per_row() -> None:
    stored = quantize(STATE)
    assert stored["linear.weight"].dtype == stored["conv.weight"].dtype == torch.int8
    assert stored["linear.weight.scale"].shape == (6,)
    assert stored["bias"].dtype == stored["pos_embed"].dtype == torch.float16
    assert torch.equal(stored["ids"], STATE["ids"])


def test_round_trip_is_within_half_a_step() -> None:
    restored = dequantize(quantize(STATE))
    assert restored.keys() == STATE.keys()
    for name in ("linear.weight", "conv.weight"):
        largest = STATE[name].flatten(1).abs().amax(1)
        error = (restored[name] - STATE[name]).flatten(1).abs().amax(1)
        assert (error <= largest / 127 * 0.51 + largest * 1e-3).all()


@pytest.mark.parametrize("factor", [0.0, 1e-12, 1e6])
def test_any_magnitude_survives(factor: float) -> None:
    weight = STATE["linear.weight"] * factor
    restored = dequantize(quantize({"w": weight}))["w"]
    assert torch.allclose(restored, weight, rtol=0, atol=float(weight.abs().max()) / 200)


def test_plain_state_is_left_alone() -> None:
    assert all(dequantize(STATE)[name] is tensor for name, tensor in STATE.items())


def test_int8_without_scale_is_refused() -> None:
    with pytest.raises(CheckpointMismatch, match=r"stored as int8 without w\.scale"):
        dequantize({"w": torch.zeros(2, 2, dtype=torch.int8)})
