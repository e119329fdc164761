"""Generation as on a GPU, on a CPU: the texts of the other path, for `tiny`, a small ViT and question states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import blip
from blip.model import device_generation, device_search
from blip.model.blip import BlipModel
from blip.model.generation import generate
from blip.model.stepper import TextStepper
from blip.tokenizer import Tokenizer
from blip.torch_backend import TorchBackend
from blip_lite.config import TextConfig, VisionConfig, published_config
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus
from tests.oracle_files import oracle_model, tensors

DECODINGS: list[Decoding] = [
    Greedy(),
    Greedy(min_length=1, max_length=9, repetition_penalty=1.7),
    Nucleus(),
    Nucleus(num_captions=3, top_k=5, temperature=1.5, min_length=1),
    Nucleus(top_p=1.0, top_k=0, repetition_penalty=1.0),
    Beam(),
    Beam(num_beams=1, min_length=1),
    Beam(num_beams=5, num_captions=4, min_length=12),
    Beam(repetition_penalty=1.4, length_penalty=-1.0),
    Beam(length_norm="new", length_penalty=2.0, early_stopping=True),
    Beam(max_length=30, min_length=30),
]


@cache
def tiny() -> tuple[BlipModel, Tokenizer]:
    model = blip.load("tiny")
    assert isinstance(model.backend, TorchBackend)
    return model.backend.module, model.backend.tokenizer


@cache
def small() -> tuple[BlipModel, Tokenizer]:
    """The shape of ViT-B with fewer and narrower layers, and the real vocabulary."""
    config = replace(
        published_config("caption"),
        vision=VisionConfig(image_size=64, width=96, num_layers=3, num_heads=3, mlp_width=192),
        text=TextConfig(width=64, num_layers=3, num_heads=2, mlp_width=128, dropout=0.0),
    )
    torch.manual_seed(0)
    model = BlipModel(config).eval()
    model.decoder.embed.word.weight.data.mul_(5)  # spreads the scores of tokens
    return model, Tokenizer.from_config(config)


def states(model: BlipModel, count: int) -> Tensor:
    size = model.config.vision.image_size
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        return model.encode_image(pixels)


def both(model: BlipModel, source: Tensor, mask: Tensor | None, start: Tensor, decoding: Decoding) -> tuple[Any, Any]:
    """Ids of the texts on both paths."""
    seeds = list(range(7, 7 + len(source)))
    stepper = TextStepper(model.decoder, model.decoder.cross_keys_values(source), mask)
    texts = (
        generate(stepper, start, decoding, model.config.text, seeds=seeds),
        device_generation.generate(model.decoder, source, mask, start, decoding, seeds),
    )
    return tuple([[text.ids for text in row] for row in rows] for rows in texts)  # type: ignore[return-value]


@pytest.mark.parametrize("model", [tiny, small])
@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
@torch.inference_mode()
def test_ids_equal_those_of_the_cpu_path(model: Any, decoding: Decoding) -> None:
    network, tokenizer = model()
    start = torch.tensor([tokenizer.prompt_ids(network.config.prompt)] * 5)
    expected, ids = both(network, states(network, 5), None, start, decoding)
    assert ids == expected


@pytest.mark.parametrize("decoding", [Greedy(max_length=10), Beam(max_length=10), Nucleus(max_length=10)], ids=str)
@torch.inference_mode()
def test_answers_read_the_mask_of_their_question(decoding: Decoding) -> None:
    vqa, model = tensors("vqa"), oracle_model("vqa")
    source, mask = vqa["xmask.states"], vqa["xmask.mask"]
    assert not mask.all()
    start = torch.full((len(source), 1), model.config.text.dec_id)
    expected, ids = both(model, source, mask, start, decoding)
    assert ids == expected


def test_blocked_ids_and_many_rows_are_left_to_the_other_path() -> None:
    assert all(device_search.supports(d) for d in DECODINGS)
    for decoding in (Greedy(no_repeat_ngram=2), Beam(banned=((7,),)), Nucleus(num_captions=17), Beam(num_beams=17)):
        assert not device_search.supports(decoding)


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
def test_no_step_reads_from_the_device(decoding: Decoding) -> None:
    """Tensors on the device "meta" have no values: reading one is an error, as is another one on the CPU."""
    network, width = small()[0], small()[0].config.vision.width
    decoder = deepcopy(network.decoder).to("meta")
    with torch.inference_mode():
        source = torch.zeros(4, network.config.vision.num_tokens, width, device="meta")
        prompt, noise = torch.zeros(4, 3, dtype=torch.long, device="meta"), None
        if isinstance(decoding, Nucleus):
            noise = torch.zeros(4 * decoding.num_captions, decoding.max_length, device="meta")
        inputs = device_generation.Inputs(source, None, prompt, noise).padded()
        for search in device_generation._searches(decoder, inputs, decoding):
            assert search.finished().device.type == "meta"
            assert all(x.device.type == "meta" for x in search.outputs())


class Tape(TorchDispatchMode):
    """A stand-in for a CUDA graph: records operations with their tensors, and repeats them into the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for function, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def recorded(graph: Tape, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
    with graph:
        yield


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Record generations as tapes instead of CUDA graphs; the list of all tapes."""
    made: list[Tape] = []

    def new() -> Tape:
        made.append(Tape())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(device_generation, "_memory", lambda device: (None, None))
    monkeypatch.setattr(device_generation, "_can_record", lambda decoder, device: True)
    device_generation._recordings.clear()
    return made


@pytest.mark.parametrize("decoding", [DECODINGS[i] for i in (1, 3, 5, 7)], ids=str)
@torch.inference_mode()
def test_recorded_steps_find_the_texts_of_other_images(decoding: Decoding, tapes: list[Tape]) -> None:
    network, tokenizer = small()
    source = states(network, 24)
    for first, count in ((0, 7), (7, 5), (12, 7), (19, 5)):
        start = torch.tensor([tokenizer.prompt_ids(("a picture of ", "the cat is ")[first % 2])] * count)
        before = len(tapes)
        expected, ids = both(network, source[first : first + count], None, start, decoding)
        assert ids == expected
        assert len(tapes) - before == (-(-(decoding.max_length - start.shape[1]) // 4) if first == 7 else 0)
    del network


@torch.inference_mode()
def test_a_recording_ends_with_its_last_text_and_with_moved_weights(tapes: list[Tape]) -> None:
    network, tokenizer = tiny()
    network = deepcopy(network)
    source, decoding = states(network, 3), Greedy(max_length=30, min_length=1)
    start = torch.tensor([tokenizer.prompt_ids("")] * 3)
    for _ in range(3):
        expected, ids = both(network, source, None, start, decoding)
        assert ids == expected
    longest = max(len(text) for row in ids for text in row)
    assert longest < 20, "these texts end early"
    replayed: list[Tape] = []
    for tape in tapes:
        tape.replay = lambda tape=tape: replayed.append(tape)  # type: ignore[method-assign]
    both(network, source, None, start, decoding)
    assert len(replayed) == -(-longest // device_generation.STEPS) < len(tapes)
    recorded_before = len(tapes)
    network.decoder.embed.word.weight = torch.nn.Parameter(network.decoder.embed.word.weight * 2)
    for _ in range(2):
        expected, ids = both(network, source, None, start, decoding)
        assert ids == expected
    assert len(tapes) == 2 * recorded_before


@torch.inference_mode()
def test_without_graphs_the_texts_are_the_same(
    tapes: list[Tape], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("CUDA error: operation not permitted\ndetails")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    network, tokenizer = small()
    start = torch.tensor([tokenizer.prompt_ids("")] * 2)
    for _ in range(3):
        expected, ids = both(network, states(network, 2), None, start, Beam())
        assert ids == expected
    assert caplog.messages == ["texts are generated without CUDA graphs (CUDA error: operation not permitted)"]


def test_images_are_rounded_up_to_few_counts() -> None:
    counts = [device_generation._round_up(i) for i in range(1, 65)]
    assert counts[:12] == [1, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16]
    assert sorted(set(counts)) == [1, 2, 4, *range(8, 65, 8)]


@pytest.mark.gpu
@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
@torch.inference_mode()
def test_cuda_graphs_find_the_texts_of_a_cpu(decoding: Decoding) -> None:
    network, tokenizer = small()
    source = states(network, 5)
    start = torch.tensor([tokenizer.prompt_ids("a picture of ")] * 5)
    expected, _ = both(network, source, None, start, decoding)
    decoder = deepcopy(network.decoder).cuda()
    for _ in range(3):  # launched, recorded, replayed
        result = device_generation.generate(
            decoder, source.cuda(), None, start.cuda(), decoding, list(range(7, 7 + len(source)))
        )
        assert [[text.ids for text in row] for row in result] == expected
    assert all(device_generation._recordings[decoder].by_key.values())
