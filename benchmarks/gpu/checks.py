"""Correctness of inference: the device against the CPU, and its ways of generating against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import blip
from benchmarks.gpu.models import config_of, photos, random_model, texts
from benchmarks.gpu.session import Session
from blip import inference
from blip.model import device_generation
from blip.model.blip import BlipModel
from blip.model.generation import generate
from blip.model.stepper import TextStepper
from blip.tokenizer import Tokenizer
from blip_lite.beam_search import Hypothesis
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
DECODINGS: dict[str, Decoding] = {
    "greedy": Greedy(),
    "beam 3": Beam(),
    "beam 5, 3 texts, penalties": Beam(num_beams=5, num_captions=3, repetition_penalty=1.2, length_penalty=0.8),
    "nucleus": Nucleus(num_captions=2),
}
Texts = list[list[Hypothesis]]


def tiny() -> tuple[BlipModel, Tokenizer]:
    backend = blip.load("tiny", device="cpu").backend
    return backend.module, backend.tokenizer


def captioner(session: Session) -> tuple[BlipModel, Tokenizer]:
    config = config_of(session, "caption", 384)
    return random_model(config), Tokenizer.from_config(config)


def matcher(session: Session) -> tuple[BlipModel, Tokenizer]:
    config = config_of(session, "retrieval", 384)
    return random_model(config), Tokenizer.from_config(config)


@torch.inference_mode()
def check_captions(session: Session, name: str, model: BlipModel, tokenizer: Tokenizer) -> None:
    """The same captions as on the CPU, whether steps are launched, recorded or replayed."""
    pixels = photos(model.config, 4 if session.is_cuda else 2)
    embeds = model.encode_image(pixels)
    expected = {label: _captions(model, tokenizer, embeds, decoding) for label, decoding in DECODINGS.items()}
    for precision, dtype in DTYPES.items():
        on_device = deepcopy(model).to(session.device, dtype)
        embeds = on_device.encode_image(pixels.to(session.device, dtype))
        for label, decoding in DECODINGS.items():
            runs = [_captions(on_device, tokenizer, embeds, decoding) for _ in range(3 if session.is_cuda else 1)]
            equal, close = _compare(expected[label], runs[0])
            ok = all(_ids(run) == _ids(runs[0]) for run in runs)
            # sampled texts differ entirely after one draw that rounding decides
            needed = 0.0 if precision == "bf16" else 0.75 if isinstance(decoding, Nucleus) else 1.0
            ok = ok and max(equal, close) >= needed
            details = {"equal_ids": round(equal, 3), "equal_or_near_tie": round(close, 3)}
            session.write(f"captions {name}", precision=precision, decoding=label, ok=ok, **details)
        difference = _logprob_difference(on_device, tokenizer, embeds, expected["greedy"])
        ok = difference < (1e-3 if precision == "f32" else 0.25)
        session.write(f"log-probabilities {name}", precision=precision, ok=ok, mean_difference=difference)
        if precision == "f32":
            _check_paths(session, name, on_device, tokenizer, embeds)
        if session.is_cuda:
            _check_recordings(session, name, precision, on_device)


def _captions(model: BlipModel, tokenizer: Tokenizer, embeds: Tensor, decoding: Decoding) -> Texts:
    return inference.caption(model, tokenizer, embeds, decoding, seeds=range(7, 7 + len(embeds)))


def _ids(rows: Texts) -> list[list[tuple[int, ...]]]:
    return [[hypothesis.ids for hypothesis in row] for row in rows]


def _compare(expected: Texts, result: Texts) -> tuple[float, float]:
    """Shares of texts with equal ids, and of texts with equal ids or an equal score: both texts are as good."""
    pairs = [(a, b) for x, y in zip(expected, result, strict=True) for a, b in zip(x, y, strict=True)]
    equal = [a.ids == b.ids for a, b in pairs]
    close = [same or abs(a.score - b.score) < 1e-3 for same, (a, b) in zip(equal, pairs, strict=True)]
    return sum(equal) / len(pairs), sum(close) / len(pairs)


def _logprob_difference(model: BlipModel, tokenizer: Tokenizer, embeds: Tensor, expected: Texts) -> float:
    """Mean difference between log-probabilities of the CPU's texts there and on the device."""
    prompt, differences = tokenizer.prompt_ids(model.config.prompt), []
    for image, (text,) in zip(embeds.split(1), expected, strict=True):
        ids = torch.tensor([[*prompt, *text.ids]], device=embeds.device)
        logprobs = model.decode(ids, None, image).float().log_softmax(-1)[:, len(prompt) - 1 : -1]
        values = logprobs.gather(2, ids[:, len(prompt) :, None])[0, :, 0]
        differences.append((values.cpu() - torch.tensor(text.logprobs)).abs())
    return float(torch.cat(differences).mean())


def _check_paths(session: Session, name: str, model: BlipModel, tokenizer: Tokenizer, embeds: Tensor) -> None:
    """Generation without reading from the device finds the texts of the search that a CPU uses."""
    start = torch.tensor([tokenizer.prompt_ids(model.config.prompt)] * len(embeds), device=embeds.device)
    seeds = list(range(len(embeds)))
    for label, decoding in DECODINGS.items():
        stepper = TextStepper(model.decoder, model.decoder.cross_keys_values(embeds))
        ours = generate(stepper, start, decoding, model.config.text, seeds=seeds)
        other = device_generation.generate(model.decoder, embeds, None, start, decoding, seeds)
        ids = [[[text.ids for text in row] for row in rows] for rows in (ours, other)]
        alike = [a == b for a, b in zip(*ids, strict=True)]
        share = sum(alike) / len(alike)
        needed = 0.75 if session.is_cuda else 1.0  # a batch that shrinks may be computed by other kernels
        session.write(f"paths {name}", decoding=label, ok=share >= needed, equal_ids=share)


def _check_recordings(session: Session, name: str, precision: str, model: BlipModel) -> None:
    recordings = list(device_generation._recordings[model.decoder].by_key.values())
    graphs = [0 if recording is None else len(recording.parts) for recording in recordings]
    session.write(
        f"graphs {name}", precision=precision, ok=len(graphs) == len(DECODINGS) and all(graphs), graphs=graphs
    )


@torch.inference_mode()
def check_matching(session: Session, name: str, model: BlipModel, tokenizer: Tokenizer) -> None:
    """The same ITM probabilities and cosines as on the CPU, of pairs and of all combinations."""
    pixels, captions = photos(model.config, 4), texts(8)
    expected = list(_scores(model, tokenizer, model.encode_image(pixels), captions))
    for precision, dtype in DTYPES.items():
        on_device = deepcopy(model).to(session.device, dtype)
        embeds = on_device.encode_image(pixels.to(session.device, dtype))
        result = [x.float().cpu() for x in _scores(on_device, tokenizer, embeds, captions)]
        difference = max(float((a - b).abs().max()) for a, b in zip(expected, result, strict=True))
        ok = difference < (1e-3 if precision == "f32" else 0.1)
        session.write(f"matching {name}", precision=precision, ok=ok, largest_difference=difference)


def _scores(model: BlipModel, tokenizer: Tokenizer, embeds: Tensor, captions: Sequence[str]) -> Iterator[Tensor]:
    pairs = inference.match(model, tokenizer, embeds, captions[: len(embeds)], pairs=True)
    owned = inference.match_own(model, tokenizer, embeds, captions, [3, 0, 0, 1, 2, 1, 1, 3])
    every = inference.match(model, tokenizer, embeds, captions)
    for matches in (pairs, owned, every):
        yield from (matches.itm, matches.itc)


@torch.inference_mode()
def check_flash(session: Session) -> None:
    """Flash attention is possible for the image encoder and for reading an image; other kernels are refused here."""
    model, _ = captioner(session)
    model = model.to(session.device, torch.bfloat16)
    pixels = photos(model.config, 2).to(session.device, torch.bfloat16)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        embeds = model.encode_image(pixels)
        block = model.decoder.blocks[0]
        rows = torch.zeros(6, 1, model.config.text.width, device=session.device, dtype=torch.bfloat16)
        block.cross_attend(rows, block.cross_keys_values(embeds), None)
    session.write("flash attention", ok=True)


def sections(session: Session) -> dict[str, Any]:
    return {
        "captions tiny": lambda: check_captions(session, "tiny", *tiny()),
        "matching tiny": lambda: check_matching(session, "tiny", *tiny()),
        "captions random": lambda: check_captions(session, "random", *captioner(session)),
        "matching random": lambda: check_matching(session, "random", *matcher(session)),
        "flash attention": lambda: check_flash(session),
    }
