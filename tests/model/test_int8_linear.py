"""8-bit linear layers: within the bounds of rounding, independent of the batch, refused where not supported."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import blip
from blip import runtime
from blip.model import int8_linear
from blip.model.int8_linear import Int8Weight, is_int8, pack_int8, quantize_rows, rounded
from blip.model.mkldnn_linear import Linear, Packable, pack
from blip_lite.errors import EnvironmentProblem, UsageError
from blip_lite.model import Model
from tests.oracle_files import oracle_model, tensors

EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = [EXAMPLES / name for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg")]
needs_int8 = pytest.mark.skipif(not int8_linear.supports(), reason="not supported by this torch or processor")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny() -> Model:
    return blip.load("tiny", device="cpu", dtype="int8")


def layer_and_input(inputs: int, outputs: int, rows: int) -> tuple[Linear, Tensor]:
    """A layer in 8 bits, rows of very different size."""
    torch.manual_seed(inputs + outputs + rows)
    layer = Linear(inputs, outputs)
    layer.weight.mul_(torch.logspace(-3, 3, outputs)[:, None])
    pack_int8(layer)
    return layer, torch.randn(rows, inputs) * torch.logspace(-4, 4, rows)[:, None]


@needs_int8
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(75, 37, 5), (64, 96, 1), (1, 1, 3), (770, 3, 130)])
def test_errors_are_those_of_rounding(inputs: int, outputs: int, rows: int, gelu: bool) -> None:
    layer, x = layer_and_input(inputs, outputs, rows)
    weight, exact = layer.weight.double(), F.linear(x.double(), layer.weight.double(), layer.bias.double())
    step = (x.amax(1) - x.amin(1)).double() / 255  # half of it is the error of a value
    scale = weight.abs().amax(1) / 127
    bound = torch.outer(step / 2, weight.abs().sum(1)) + torch.outer(x.double().abs().sum(1) + inputs * step, scale / 2)
    slope = 1.13 if gelu else 1.0  # the steepest of GELU
    error = layer(x, gelu=gelu).double() - (F.gelu(exact) if gelu else exact)
    assert (error.abs() <= slope * bound + 1e-5 * (1 + exact.abs())).all()
    assert error.abs().max() > 0 or inputs == 1


@needs_int8
def test_results_are_those_of_the_rounded_numbers() -> None:
    layer, x = layer_and_input(75, 37, 5)
    integers, scale = quantize_rows(layer.weight)
    assert integers.abs().amax(1).tolist() == [127] * 37
    assert_close(layer(x), F.linear(rounded(x), integers * scale[:, None], layer.bias), rtol=1e-4, atol=1e-4)
    assert_close(layer(x.view(1, 5, 1, 75)), layer(x).view(1, 5, 1, 37), rtol=0, atol=0)
    assert_close(layer(torch.stack([x, x], dim=2)[..., 0]), layer(x), rtol=0, atol=0)  # not contiguous


@needs_int8
def test_zeros_and_constants_are_exact() -> None:
    layer = Linear(12, 4)
    layer.weight.copy_(torch.tensor([0.0, 127.0, -127.0, 1.0])[:, None].expand(4, 12))
    layer.bias.copy_(torch.arange(4))
    pack_int8(layer)
    x = torch.tensor([[0.0], [2.0], [-3.0]]).expand(3, 12)
    assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_do_not_depend_on_others(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_and_input(75, 37, 50)
    layer, x = layer.to(dtype), x.to(dtype)
    whole = layer(x)
    assert whole.dtype == dtype
    assert_close(torch.cat([layer(row) for row in x.split(1)]), whole, rtol=0, atol=0)
    monkeypatch.setattr(int8_linear, "BLOCK", 75 * 7)
    assert_close(layer(x), whole, rtol=0, atol=0)
    assert_close(layer(x.view(2, 25, 75)), whole.view(2, 25, 37), rtol=0, atol=0)
    with runtime.threads(2):
        assert_close(layer(x), whole, rtol=0, atol=0)


def outputs(model: Any) -> list[Tensor]:
    core, embeds = tensors("core"), model.encode_image(tensors("inputs")["images"][:4])
    return [embeds, model.decode(core["text.input_ids"], core["text.attention_mask"], embeds)]


@needs_int8
def test_a_model_is_close_and_its_state_does_not_change() -> None:
    model = oracle_model("caption")
    exact, before = outputs(model), model.state_dict()
    pack_int8(model)
    for y, expected in zip(outputs(model), exact, strict=True):
        assert 0 < (y - expected).norm() < 0.05 * expected.norm()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


@needs_int8
def test_gradients_are_those_of_the_weights() -> None:
    layer = Linear(4, 3)
    pack_int8(layer)
    with torch.enable_grad():
        y = layer(torch.full((1, 4), 0.3))
        y.sum().backward()
    assert_close(y.detach(), F.linear(torch.full((1, 4), 0.3), layer.weight, layer.bias))
    assert_close(layer.weight.grad, torch.full((3, 4), 0.3))


@needs_int8
def test_copies_compute_in_8_bits_too() -> None:
    layer, x = layer_and_input(20, 7, 3)
    expected = layer(x)
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    for other in (copy.deepcopy(layer), torch.load(stored, weights_only=False)):
        assert isinstance(other.packed, Int8Weight) and other.packed._weight is None
        assert_close(other(x), expected, rtol=0, atol=0)


@needs_int8
def test_changed_weights_are_noticed() -> None:
    layer, x = Linear(4, 3), torch.ones(1, 4)
    pack_int8(layer)
    layer(x)
    layer.weight.fill_(2)
    assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    layer.load_state_dict({"weight": torch.ones(3, 4), "bias": torch.zeros(3)}, assign=True)
    assert layer(x).tolist() == [[4, 4, 4]]
    layer.bfloat16().float().weight.data.fill_(2)
    assert is_int8(layer) and layer(x).tolist() == [[8, 8, 8]]
    pack(layer)
    assert not is_int8(layer)


def wrong(*_: Any) -> Tensor:
    return torch.zeros(6, 37)


def raises(*_: Any) -> Tensor:
    raise RuntimeError("not built in")


@pytest.mark.parametrize("broken", [wrong, raises])
def test_operators_that_fail_the_self_test_are_refused(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_linear, "_block", broken)
    assert_refused()


def test_processors_without_the_instructions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert_refused()


def assert_refused() -> None:
    int8_linear.supports.cache_clear()
    try:
        with pytest.raises(EnvironmentProblem, match=r"^dtype 'int8' needs a processor with AVX-512 VNNI.*; use fp32"):
            blip.load("random-tiny", device="cpu", dtype="int8")
        layer = Linear(4, 3)
        pack(layer, Int8Weight)  # as a pickled one from another machine
        with pytest.raises(EnvironmentProblem):
            layer(torch.ones(1, 4))
    finally:
        int8_linear.supports.cache_clear()


@pytest.mark.parametrize("dtype", ["int8", torch.int8])
def test_other_devices_are_refused(dtype: str | torch.dtype) -> None:
    with pytest.raises(UsageError, match="dtype 'int8' on device 'cuda:1'; must be fp32, bf16 or fp16 there"):
        runtime.choose_dtype(dtype, torch.device("cuda:1"))


def test_compiling_is_refused() -> None:
    with pytest.raises(UsageError, match="compile with dtype 'int8'; must be one of the two"):
        blip.load("random-tiny", device="cpu", dtype="int8", compile=True)


@needs_int8
def test_loading_and_changing_the_dtype() -> None:
    backend = blip.load("random-tiny", device="cpu", dtype=torch.int8).backend
    assert backend.dtype == torch.int8 and "torch.int8" in repr(backend)
    assert all(isinstance(m.packed, Int8Weight) for m in backend.module.modules() if isinstance(m, Packable))
    assert backend.to("cpu").dtype == torch.int8
    assert backend.to(dtype="fp32").dtype == torch.float32 and not is_int8(backend.module)
    assert backend.to(dtype="int8").dtype == torch.int8


@needs_int8
def test_captions_of_the_examples(tiny: Model) -> None:
    texts = [result.text for result in tiny.caption(PHOTOS)]
    exact = [result.text for result in blip.load("tiny", device="cpu").caption(PHOTOS)]
    assert sum(a == b for a, b in zip(texts, exact, strict=True)) >= 3
    assert "cat" in texts[2] and "coffee" in texts[3]
    assert [tiny.caption(photo).text for photo in PHOTOS] == texts  # alone as in a batch
    with runtime.threads(2):
        assert [result.text for result in tiny.caption(PHOTOS)] == texts


@needs_int8
def test_scores_and_vectors_are_close(tiny: Model) -> None:
    exact, texts = blip.load("tiny", device="cpu"), ["a cat", "a cup of coffee", "a rocket"]
    scores, expected = tiny.match(PHOTOS, texts), exact.match(PHOTOS, texts)
    assert abs(scores.itm - expected.itm).max() < 0.1 and abs(scores.itc - expected.itc).max() < 0.02
    vectors = tiny.embed_image(PHOTOS).vectors
    assert (vectors * exact.embed_image(PHOTOS).vectors).sum(axis=1).min() > 0.99
