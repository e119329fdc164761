"""Linear layers and attention of training on a CPU: outputs and gradients equal to those of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from blip.model import training_attention, training_linear
from blip.model.layers import Attention
from blip.model.mkldnn_linear import Linear
from tests.oracle_files import oracle_model, tensors

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
needs_operators = pytest.mark.skipif(
    not training_linear.works(torch.float32), reason="not supported by this torch or processor"
)
needs_bfloat16 = pytest.mark.skipif(
    not training_linear.works(torch.bfloat16), reason="not supported by this torch or processor"
)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The output, and the gradients of a fixed function of it."""
    y = function(*inputs)
    loss = (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    return [y.detach(), *torch.autograd.grad(loss, [x for x in inputs if x.requires_grad])]


@needs_operators
@pytest.mark.parametrize("frozen", [(), (0,), (1, 2), (2,)], ids=str)
def test_a_linear_layer_has_the_gradients_of_torch_s(frozen: tuple[int, ...]) -> None:
    inputs = leaves((3, 5, 20), (7, 20), (7,))
    for i in frozen:
        inputs[i].requires_grad_(False)
    result = training_linear.training_linear(*inputs)
    assert "_Linear" in str(result.grad_fn)
    assert_close(gradients(training_linear.training_linear, *inputs), gradients(F.linear, *inputs), **CLOSE)


@needs_operators
def test_inputs_and_gradients_need_not_be_contiguous() -> None:
    x, weight, bias = leaves((4, 5, 40), (7, 20), (7,))

    def through(linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, w, b: linear(x.transpose(0, 1)[..., ::2], w, b).transpose(0, 2)

    expected = gradients(through(F.linear), x, weight, bias)
    assert_close(gradients(through(training_linear.training_linear), x, weight, bias), expected, **CLOSE)


@needs_bfloat16
def test_autocast_returns_its_dtype_and_gradients_in_that_of_the_weights() -> None:
    inputs = leaves((50, 40), (30, 40), (30,))
    exact = gradients(F.linear, *inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = gradients(F.linear, *inputs)
        results = gradients(training_linear.training_linear, *inputs)
    assert [y.dtype for y in results] == [torch.bfloat16] + [torch.float32] * 3
    for a, b, c in zip(results, plain, exact, strict=True):
        assert (a - c).abs().mean() < 1.2 * (b - c).abs().mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_use_torch_s_linear_layer(dtype: torch.dtype) -> None:
    layer = Linear(4, 3).to(dtype)
    y = layer(torch.ones(2, 4, dtype=dtype))
    assert y.dtype == dtype and "_Linear" not in str(y.grad_fn)


def test_other_devices_and_layers_without_gradients_use_torch_s_linear_layer() -> None:
    assert "_Linear" not in str(Linear(4, 3, device="meta")(torch.ones(2, 4, device="meta")).grad_fn)
    with torch.no_grad():
        layer, x = Linear(4, 3), torch.ones(2, 4)
        assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=0, rtol=0)


def wrong_shape(*_: Any) -> Tensor:
    return torch.zeros(5, 37)


def raises(*_: Any) -> Tensor:
    raise RuntimeError("not built in")


@pytest.fixture
def fresh_self_test() -> Iterator[None]:
    training_linear.works.cache_clear()
    yield
    training_linear.works.cache_clear()


def loss_and_gradients() -> list[Tensor]:
    model, core = oracle_model("caption").train(), tensors("core")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | Attention):
            setattr(module, "p" if isinstance(module, torch.nn.Dropout) else "dropout", 0.0)
    ids, mask = core["text.input_ids"], core["text.attention_mask"]
    loss = model.lm_loss(
        ids, mask, ids.masked_fill(mask == 0, -100), model.encode_image(tensors("inputs")["images"][:4])
    )
    return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


@pytest.mark.parametrize("broken", [wrong_shape, raises])
@pytest.mark.usefixtures("fresh_self_test")
def test_an_operator_that_fails_the_self_test_is_not_used(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = loss_and_gradients()
    training_linear.works.cache_clear()
    monkeypatch.setattr(training_linear, "_product", broken)
    expected = loss_and_gradients()
    assert not training_linear.works(torch.float32)
    assert_close(results[0], expected[0], atol=0, rtol=1e-5)
    assert_close(results[1:], expected[1:], **CLOSE)


@pytest.mark.parametrize("block", [1, 100, 1000, 1 << 19])  # one head at a time, some, several images, all
@pytest.mark.parametrize("queries", [1, 9])
def test_attention_in_blocks_has_the_gradients_of_torch_s(
    block: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_attention, "BLOCK", block)
    inputs = [x.transpose(1, 2) for x in leaves((5, queries, 4, 8), (5, 10, 4, 8), (5, 10, 4, 8))]
    expected = gradients(F.scaled_dot_product_attention, *inputs)
    results = gradients(training_attention.training_attention, *inputs)
    assert_close(results, expected, **CLOSE)
    assert all(y.transpose(1, 2).is_contiguous() for y in results)
