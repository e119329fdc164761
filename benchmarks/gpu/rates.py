"""Rates of our models and of Transformers on the same device, beside the least work of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import operations, peer_calls, training_checks
from benchmarks.gpu.models import as_public, config_of, photos, random_model, squares, texts
from benchmarks.gpu.operations import NEW, Work
from benchmarks.gpu.peer_calls import peer_version
from benchmarks.gpu.session import Session
from blip import inference
from blip.capfilt.models import CaptionFilter
from blip.capfilt.texts import Captions
from blip.model.device_generation import generate as generate_on_device
from blip.tasks.initialize import Start
from blip.tokenizer import Tokenizer
from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam, Nucleus

__all__ = ["Row", "peer_version", "rows"]

SECONDS = 3.0  # of each measurement, after the warm-up; without a GPU three calls suffice
MATCHED = 128  # texts per image in the row with many
TOKENS = 30  # of the texts of pre-training, as padded in the original
Build = Callable[[int], Callable[[], Any]]  # number of images -> call


@dataclass(frozen=True)
class Row:
    """A section that measures one rate."""

    title: str
    measure: Callable[[], None]


def rows(session: Session) -> list[Row]:
    """The rows of the table, most important first."""
    measures = {
        "captions/s, beam 3": captions,
        "ITM pairs/s, one text per image": pairs,
        "CapFilt images/s": capfilt,
        "pre-training images/s": pretraining,
        "parts of a caption": parts,
        f"ITM pairs/s, {MATCHED} texts per image": many_texts,
        "captioning training images/s": caption_training,
    }
    return [Row(title, partial(measure, session, title)) for title, measure in measures.items()]


def _batches(session: Session, *sizes: int) -> Sequence[int]:
    return sizes if session.is_cuda else (2,)


def _measure(session: Session, title: str, side: str, build: Build, batches: Sequence[int], items: int = 1) -> None:
    """Write the rate of each batch size: items per image, by the median of at least three calls."""
    for batch in batches:
        try:
            call = build(batch)
            for _ in range(3 if session.is_cuda else 1):  # launches, records, replays
                call()
            times: list[float] = []
            while len(times) < 3 or (session.is_cuda and sum(times) < SECONDS and len(times) < 50):
                session.wait()
                start = time.perf_counter()
                call()
                session.wait()
                times.append(time.perf_counter() - start)
        except torch.OutOfMemoryError:
            session.write(title, side=side, batch=batch, note="out of memory")
            session.release()
            continue
        median = sorted(times)[len(times) // 2]
        session.write(title, side=side, batch=batch, rate=batch * items / median, seconds=median, rounds=len(times))


def _against_peer(
    session: Session, title: str, build: Callable[[], Build], batches: Sequence[int], items: int = 1
) -> None:
    """Measure Transformers, if it is installed; a failure there does not cost our own rate."""
    if peer_version() is None:
        session.write(title, side="Transformers", note="not installed")
        return
    try:
        _measure(session, title, "Transformers", build(), batches, items)
    except Exception as error:
        session.write(title, side="Transformers", note=f"{type(error).__name__}: {error}"[:200])


def _work(session: Session, title: str, work: Work) -> None:
    session.write(title, operations=work.operations, read=work.read)


def _network(session: Session, config: BlipConfig, seed: int = 0) -> Any:
    return random_model(config, session.device, seed).to(session.dtype)


@torch.inference_mode()
def captions(session: Session, title: str) -> None:
    config = config_of(session, "caption", 384)
    model, tokenizer = _network(session, config), Tokenizer.from_config(config)
    prompt = tokenizer.prompt_ids(config.prompt)
    decoding = Beam(num_beams=3, max_length=len(prompt) + NEW, min_length=len(prompt) + NEW)
    _work(session, title, operations.caption(config, len(prompt), 3))

    def ours(batch: int) -> Callable[[], Any]:
        pixels = photos(config, batch).to(session.device, session.dtype)
        return lambda: inference.caption(model, tokenizer, model.encode_image(pixels), decoding)

    _measure(session, title, "ours", ours, _batches(session, 64, 256))
    peer = partial(peer_calls.captions, session, model, config, prompt, {"num_beams": 3, "do_sample": False})
    _against_peer(session, title, peer, _batches(session, 64))


@torch.inference_mode()
def pairs(session: Session, title: str) -> None:
    config = config_of(session, "retrieval", 384)
    model, tokenizer = _network(session, config), Tokenizer.from_config(config)
    _work(session, title, operations.match(config, _mean_length(tokenizer, texts(256)), 1))

    def ours(batch: int) -> Callable[[], Any]:
        pixels, captions = photos(config, batch).to(session.device, session.dtype), texts(batch)
        return lambda: inference.match(model, tokenizer, model.encode_image(pixels), captions, pairs=True)

    _measure(session, title, "ours", ours, _batches(session, 256))
    peer = partial(peer_calls.pairs, session, model, config, tokenizer)
    _against_peer(session, title, peer, _batches(session, 256))


@torch.inference_mode()
def many_texts(session: Session, title: str) -> None:
    config = config_of(session, "retrieval", 384)
    model, tokenizer = _network(session, config), Tokenizer.from_config(config)
    encoded = tokenizer.encode(texts(MATCHED), first="enc", max_length=35)
    _work(session, title, operations.match(config, _mean_length(tokenizer, texts(MATCHED)), MATCHED))

    def ours(batch: int) -> Callable[[], Any]:
        pixels = photos(config, batch).to(session.device, session.dtype)
        return lambda: [inference.match_logits(model, x, encoded) for x in model.encode_image(pixels).split(1)]

    _measure(session, title, "ours", ours, _batches(session, 16), MATCHED)
    peer = partial(peer_calls.many_texts, session, model, config, encoded)
    _against_peer(session, title, peer, _batches(session, 16), MATCHED)


def _mean_length(tokenizer: Tokenizer, captions: Sequence[str]) -> float:
    return float(tokenizer.encode(list(captions), max_length=35).attention_mask.sum()) / len(captions)


@torch.inference_mode()
def capfilt(session: Session, title: str) -> None:
    configs = config_of(session, "caption", 384), config_of(session, "retrieval", 384)
    networks = [_network(session, config, seed) for seed, config in enumerate(configs)]
    captioner, filter = (as_public(*pair) for pair in zip(networks, configs, strict=True))
    both, tokenizer = CaptionFilter(captioner, filter), captioner.backend.tokenizer
    prompt = tokenizer.prompt_ids(configs[0].prompt)
    sampling = Captions(decoding=Nucleus(max_length=len(prompt) + NEW, min_length=len(prompt) + NEW))

    def ours(batch: int) -> Callable[[], Any]:
        images = [tuple(x for _ in both.sides) for x in squares(both.sides[0], batch)]
        web, keys = [[text] for text in texts(batch)], [str(i) for i in range(batch)]
        return lambda: both(images, web, keys, sampling)

    scored = [text.text for row in ours(4)() for text in row]
    tokens = 2 * _mean_length(tokenizer, scored)
    _work(session, title, operations.capfilt(*configs, len(prompt), tokens))
    _measure(session, title, "ours", ours, _batches(session, 64, 256))
    peer = partial(peer_calls.capfilt, session, networks, configs, prompt, tokenizer)
    _against_peer(session, title, peer, _batches(session, 64))


def _start(session: Session, size: int) -> Start:
    return Start(init="random-tiny") if session.small else Start(image_size=size)


def _training(session: Session, title: str, task: Any, tokens: int, batches: Sequence[int]) -> None:
    model = training_checks.trainable(task, session.device, "bf16" if session.is_cuda else "fp32")

    def ours(batch: int) -> Callable[[], Any]:
        inputs = training_checks.batch_of(task, batch, texts(batch, (tokens,)))
        if session.is_cuda:  # as a loader with workers does
            inputs = {key: x.pin_memory() if isinstance(x, torch.Tensor) else x for key, x in inputs.items()}
        return lambda: training_checks.step(model, inputs)

    _measure(session, title, "ours", ours, batches)


def pretraining(session: Session, title: str) -> None:
    task = training_checks.pretraining(_start(session, 224), queue_size=57600 if session.is_cuda else 1024)
    _work(session, title, operations.pretraining(task.setup.config, TOKENS))
    _training(session, title, task, TOKENS - 2, _batches(session, 64, 192))
    session.write(title, side="Transformers", note="has no pre-training")


def caption_training(session: Session, title: str) -> None:
    task = training_checks.captioning(_start(session, 384))
    prompt = len(task.setup.initialized.tokenizer.prompt_ids(task.setup.config.prompt))
    _work(session, title, operations.caption_training(task.setup.config, prompt + 11))
    peer = partial(peer_calls.caption_training, session, task, training_checks.batch_of)
    _training(session, title, task, 10, _batches(session, 64))
    session.release()
    _against_peer(session, title, peer, _batches(session, 64))


@torch.inference_mode()
def parts(session: Session, title: str) -> None:
    """Milliseconds of the parts of captioning, and the kernels that take most of it."""
    config = config_of(session, "caption", 384)
    model, tokenizer = _network(session, config), Tokenizer.from_config(config)
    batch = 128 if session.is_cuda else 2
    pixels = photos(config, batch).to(session.device, session.dtype)
    embeds = model.encode_image(pixels)
    prompt = torch.tensor([tokenizer.prompt_ids(config.prompt)] * batch, device=session.device)
    length = prompt.shape[1] + NEW
    decoding = Beam(num_beams=3, max_length=length, min_length=length)
    calls: dict[str, Callable[[], Any]] = {
        "vision": lambda: model.encode_image(pixels),
        "keys and values": lambda: model.decoder.cross_keys_values(embeds),
        "generation, with keys and values": lambda: generate_on_device(
            model.decoder, embeds, None, prompt, decoding, None
        ),
        "whole": lambda: inference.caption(model, tokenizer, model.encode_image(pixels), decoding),
    }
    for name, call in calls.items():
        _measure(session, f"{title}: {name}", "ours", lambda _, call=call: call, [batch])  # type: ignore[misc]
    if session.is_cuda:
        _profile(session, title, calls["whole"])


def _profile(session: Session, title: str, call: Callable[[], Any]) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile, nullcontext():
        call()
        session.wait()
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)[:25]
    listed = [[event.key[:90], event.count, round(event.self_device_time_total / 1e3, 2)] for event in kernels]
    session.write(title, kernels_ms=listed)
