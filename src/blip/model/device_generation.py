"""Generation on a GPU: the host only starts work and reads the finished texts.

From the second batch of a shape on, the steps are replayed as CUDA graphs: launching their thousands of kernels one by
one takes longer than computing them. The number of images is rounded up, so that few shapes occur. The texts of an
image depend neither on the others nor on whether its batch is replayed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from blip.model import device_search
from blip.model.device_search import DeviceSearch, Outputs
from blip.model.generation import uniform_noise
from blip.model.stepper import TextStepper
from blip.model.text import TextTransformer
from blip_lite.beam_search import Generated, check_lengths
from blip_lite.decoding import Decoding, Nucleus

logger = logging.getLogger(__name__)

STEPS = 4  # per graph; after each, the host reads whether all texts are finished
KEPT = 16  # recordings per decoder


@dataclass(frozen=True)
class Inputs:
    """Tensors that determine the texts of a batch, apart from weights and settings."""

    source: Tensor  # [I, N, C] for cross-attention
    source_mask: Tensor | None  # [I, N], 1 = attend
    prompt: Tensor  # [I, P]
    noise: Tensor | None  # [I * n, max_length], for sampling

    def tensors(self) -> list[Tensor]:
        return [x for x in (self.source, self.source_mask, self.prompt, self.noise) if x is not None]

    def padded(self) -> Self:
        """A copy with `_round_up` images."""
        images = len(self.prompt)

        def padded(x: Tensor) -> Tensor:
            return x.new_empty(len(x) // images * _round_up(images), *x.shape[1:])

        mask, noise = (None if x is None else padded(x) for x in (self.source_mask, self.noise))
        result = type(self)(padded(self.source), mask, padded(self.prompt), noise)
        result.replace(self)
        return result

    def replace(self, values: Inputs) -> None:
        """Take the values of as many or fewer images; the others become copies of the first."""
        for x, value in zip(self.tensors(), values.tensors(), strict=True):
            x[: len(value)] = value
            x[len(value) :] = value[:1]


def _round_up(images: int) -> int:
    if images > 8:
        return -(-images // 8) * 8
    return 1 << (images - 1).bit_length()


@torch.inference_mode()
def generate(
    decoder: TextTransformer,
    source: Tensor,
    source_mask: Tensor | None,
    prompt: Tensor,
    decoding: Decoding,
    seeds: Sequence[int] | None,
) -> list[list[Generated]]:
    """`blip.model.generation.generate` for a decoding that `device_search.supports`; source [I, N, C]."""
    check_lengths(prompt.shape[1], decoding, decoder.config)
    images, noise = len(prompt), None
    if not images:
        return []
    if isinstance(decoding, Nucleus):
        noise = uniform_noise([0] * images if seeds is None else seeds, decoding).to(source.device)
    inputs = Inputs(source, source_mask, prompt, noise)
    with _lock, torch.cuda.device(source.get_device()):  # recordings of a device share their memory
        recording = _recording(decoder, inputs, decoding) if _can_record(decoder, source.device) else None
        outputs = _run(decoder, inputs.padded(), decoding) if recording is None else recording.run(inputs)
        return device_search.texts_of(outputs, decoding, decoder.config.sep_id)[:images]


def _run(decoder: TextTransformer, inputs: Inputs, decoding: Decoding) -> Outputs:
    for search in _searches(decoder, inputs, decoding):
        if bool(search.finished()):
            break
    return search.outputs()


def _searches(decoder: TextTransformer, inputs: Inputs, decoding: Decoding) -> Iterator[DeviceSearch]:
    """Start a search and yield it after every `STEPS` ids."""
    stepper = TextStepper(decoder, decoder.cross_keys_values(inputs.source), inputs.source_mask)
    search = device_search.start(stepper, inputs.prompt, decoding, decoder.config, inputs.noise)
    while search.length < decoding.max_length:
        for _ in range(min(STEPS, decoding.max_length - search.length)):
            search.advance()
        yield search


class Recording:
    """A generation as CUDA graphs of `STEPS` ids each, for inputs of one shape."""

    def __init__(self, decoder: TextTransformer, inputs: Inputs, decoding: Decoding) -> None:
        self.inputs = inputs.padded()
        self.parts: list[tuple[torch.cuda.CUDAGraph, Tensor, Outputs]] = []
        pool, stream = _memory(inputs.source.device)
        searches = _searches(decoder, self.inputs, decoding)
        for _ in range(-(-(decoding.max_length - inputs.prompt.shape[1]) // STEPS)):
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads may use the device meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                search = next(searches)
                finished = search.finished()
            self.parts.append((graph, finished, search.outputs()))

    def run(self, inputs: Inputs) -> Outputs:
        self.inputs.replace(inputs)
        outputs: Outputs = ()
        for graph, finished, outputs in self.parts:  # noqa: B007
            graph.replay()
            if bool(finished):
                break
        return outputs


class _Recordings:
    """Recordings of one decoder, valid until its weights move to other addresses."""

    def __init__(self, weights: tuple[int, ...]) -> None:
        self.weights = weights
        self.seen: set[object] = set()
        self.by_key: dict[object, Recording | None] = {}  # least recently used first; None: not possible

    def of(self, decoder: TextTransformer, inputs: Inputs, decoding: Decoding) -> Recording | None:
        """Return the recording for these shapes and settings; None at their first use."""
        shapes = tuple((x.shape[1:], x.dtype) for x in inputs.tensors())
        key = decoding, _round_up(len(inputs.prompt)), inputs.source_mask is None, shapes
        if key not in self.seen:
            self.seen.add(key)
            return None
        recording = self.by_key.pop(key) if key in self.by_key else _record(decoder, inputs, decoding)
        self.by_key[key] = recording
        if len(self.by_key) > KEPT:
            del self.by_key[next(iter(self.by_key))]
        return recording


_lock = threading.Lock()
_recordings: WeakKeyDictionary[TextTransformer, _Recordings] = WeakKeyDictionary()


def _recording(decoder: TextTransformer, inputs: Inputs, decoding: Decoding) -> Recording | None:
    weights = tuple(parameter.data_ptr() for parameter in decoder.parameters())
    recordings = _recordings.get(decoder)
    if recordings is None or recordings.weights != weights:
        recordings = _recordings[decoder] = _Recordings(weights)
    return recordings.of(decoder, inputs, decoding)


def _record(decoder: TextTransformer, inputs: Inputs, decoding: Decoding) -> Recording | None:
    stream = torch.cuda.current_stream()
    try:
        return Recording(decoder, inputs, decoding)
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # a failed recording may have left its own
        logger.warning("texts are generated without CUDA graphs (%s)", str(error).partition("\n")[0])
        return None


def _can_record(decoder: TextTransformer, device: torch.device) -> bool:
    return device.type == "cuda" and not decoder.training and not torch.is_autocast_enabled("cuda")


@cache
def _memory(device: torch.device) -> tuple[Any, torch.cuda.Stream]:
    """Memory of all recordings of a device, and the stream to record on: only one of them runs at a time."""
    return torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
