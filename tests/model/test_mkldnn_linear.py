"""Packed weights: equal outputs and state; unsupported devices and failed self-tests use plain weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import blip
from blip import inference
from blip.model import mkldnn_linear
from blip.model.blip import BlipModel
from blip.model.layers import blockwise
from blip.model.mkldnn_linear import Linear, Packable, PackedWeight, pack
from blip.tokenizer import Tokenizer
from blip_lite.config import Family, random_tiny_config
from blip_lite.decoding import Beam
from tests.oracle_files import oracle_model, tensors

CPU = torch.device("cpu")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
needs_operators = pytest.mark.skipif(
    not mkldnn_linear.supports(CPU, torch.float32), reason="not supported by this torch or processor"
)
needs_bfloat16 = pytest.mark.skipif(
    not mkldnn_linear.supports(CPU, torch.bfloat16), reason="not supported by this torch or processor"
)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def outputs(model: BlipModel) -> list[Tensor]:
    """Outputs of all parts of the model."""
    core, embeds = tensors("core"), model.encode_image(tensors("inputs")["images"][:4])
    ids, mask = core["text.input_ids"], core["text.attention_mask"]
    results = [embeds]
    if hasattr(model, "encoder"):
        results += [model.encode_text(ids, mask), model.fuse(ids, mask, embeds)]
    if hasattr(model, "decoder"):
        results.append(model.decode(ids, mask, embeds[..., : model.decoder.blocks[0].cross.k.in_features]))
    return results


def copies(model: BlipModel) -> int:
    """Number of packed weights."""
    return sum(
        m.packed is not None and m.packed._weight is not None for m in model.modules() if isinstance(m, Packable)
    )


@needs_operators
@pytest.mark.parametrize("family", ["caption", "retrieval", "pretrain"])
def test_outputs_equal_those_of_plain_weights(family: Family) -> None:
    model = oracle_model(family)
    plain = outputs(model)
    pack(model)
    assert copies(model) == 0  # created at first use
    assert_close(outputs(model), plain, **CLOSE)
    assert copies(model) > 0


@needs_operators
def test_captions_equal_those_of_plain_weights() -> None:
    torch.manual_seed(0)
    model = BlipModel(random_tiny_config("caption")).eval()
    tokenizer, pixels = Tokenizer.from_config(model.config), torch.randn(3, 3, 32, 32)
    plain = inference.caption(model, tokenizer, model.encode_image(pixels), Beam(num_captions=3))
    pack(model)
    results = inference.caption(model, tokenizer, model.encode_image(pixels), Beam(num_captions=3))
    assert [[h.ids for h in row] for row in results] == [[h.ids for h in row] for row in plain]


@needs_bfloat16
def test_bfloat16_is_as_exact_as_plain_bfloat16() -> None:
    model = oracle_model("caption")
    exact = outputs(model)
    plain = [y.float() for y in outputs_in_bfloat16(model)]
    pack(model)
    results = [y.float() for y in outputs_in_bfloat16(model)]
    for a, b, c in zip(results, plain, exact, strict=True):
        assert (a - c).abs().mean() < 1.2 * (b - c).abs().mean() + 1e-6


def outputs_in_bfloat16(model: BlipModel) -> list[Tensor]:
    core = tensors("core")
    embeds = model.bfloat16().encode_image(tensors("inputs")["images"][:4].bfloat16())
    return [embeds, model.decode(core["text.input_ids"], core["text.attention_mask"], embeds)]


@needs_operators
@pytest.mark.parametrize("gelu", [False, True])
def test_inputs_need_not_be_contiguous(gelu: bool) -> None:
    layer, x = Linear(20, 7), torch.randn(3, 5, 40)
    plain = [layer(part, gelu=gelu) for part in (x[..., :20], x[:, -1, ::2], x[:, :1, 20:])]
    pack(layer)
    assert_close([layer(part, gelu=gelu) for part in (x[..., :20], x[:, -1, ::2], x[:, :1, 20:])], plain, **CLOSE)


def wrong_shape(*_: Any) -> Tensor:
    return torch.zeros(5, 37)


def raises(*_: Any) -> Tensor:
    raise RuntimeError("not built in")


@pytest.mark.parametrize("operator", ["_linear", "_reorder"])
@pytest.mark.parametrize("broken", [wrong_shape, raises])
def test_operators_that_fail_the_self_test_are_not_used(
    operator: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = oracle_model("caption")
    plain = outputs(model)
    monkeypatch.setattr(mkldnn_linear, operator, broken)
    mkldnn_linear._works.cache_clear()
    try:
        pack(model)
        assert not mkldnn_linear.supports(CPU, torch.float32)
        assert_close(outputs(model), plain, atol=0, rtol=0)
        assert copies(model) == 0
    finally:
        mkldnn_linear._works.cache_clear()


def test_other_devices_and_dtypes_are_not_packed() -> None:
    assert not mkldnn_linear.supports(torch.device("meta"), torch.float32)
    assert not mkldnn_linear.supports(CPU, torch.float64)
    layer = Linear(4, 3).double()
    pack(layer)
    assert layer(torch.ones(2, 4).double()).dtype == torch.float64


def test_state_and_parameters_do_not_change() -> None:
    model = oracle_model("pretrain")
    before, names = model.state_dict(), [n for n, _ in model.named_parameters()]
    pack(model)
    outputs(model)
    after = model.state_dict()
    assert list(after) == list(before) and names == [n for n, _ in model.named_parameters()]
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


@needs_operators
def test_copies_of_a_model_have_no_packed_weights() -> None:
    layer = Linear(4, 3)
    pack(layer)
    expected = layer(torch.ones(1, 4))
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    for other in (copy.deepcopy(layer), torch.load(stored, weights_only=False)):
        assert isinstance(other.packed, PackedWeight) and other.packed._weight is None
        assert_close(other(torch.ones(1, 4)), expected)


@needs_operators
def test_changed_weights_are_noticed() -> None:
    layer, x = Linear(4, 3), torch.ones(1, 4)
    pack(layer)
    layer(x)
    layer.weight.add_(1)
    assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    layer.load_state_dict({"weight": torch.ones(3, 4), "bias": torch.zeros(3)}, assign=True)
    assert layer(x).tolist() == [[4, 4, 4]]
    layer.bfloat16().float().weight.data.fill_(2)
    assert layer(x).tolist() == [[8, 8, 8]]


@needs_operators
def test_packed_weights_are_not_used_with_gradients() -> None:
    model = oracle_model("caption").train()
    pack(model)
    with torch.enable_grad():
        outputs(model)[1].sum().backward()
    assert copies(model) == 0
    assert model.vision.blocks[0].mlp.fc1.weight.grad is not None


@pytest.mark.parametrize("queries", [1, 3, 100])
def test_attention_in_blocks_is_attention(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.model.layers.BLOCK", 1000)  # less than one image, or several
    q, k, v = torch.randn(5, 2, queries, 8), torch.randn(5, 2, 30, 8), torch.randn(5, 2, 30, 8)
    assert_close(blockwise(q, k, v), F.scaled_dot_product_attention(q, k, v), **CLOSE)


def test_loaded_models_are_packed() -> None:
    module = blip.load("tiny", device="cpu").backend.module
    assert all(m.packed is not None for m in module.modules() if isinstance(m, Packable))
