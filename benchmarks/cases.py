"""Benchmark cases: the calls of both sides, the check of their outputs, and the minimum work."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import Pair, pair
from benchmarks.timing import Call
from blip import inference
from blip.model import int8_linear
from blip.model.blip import BlipModel
from blip.tokenizer import Encoded
from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus

NEW = 20  # tokens of a caption, forced
WORDS = ("a", "man", "woman", "dog", "child", "red", "ball", "street", "car", "running", "in", "near", "the", "two")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """Minimum work of a call: billions of operations of matrix products, billions of bytes of weights read."""

    gflop: float
    gbyte: float = 0.0


@dataclass(frozen=True)
class Case:
    """Calls by name; times of each pair (ours, theirs) are compared. check: outputs by name -> remark per pair."""

    calls: dict[str, Call]
    pairs: list[tuple[str, str]]
    check: Callable[[dict[str, Any]], dict[tuple[str, str], str]]
    work: dict[str, Work] = field(default_factory=dict)
    rounds: int = 5
    scale: dict[str, float] = field(default_factory=dict)  # for calls that do only a part: the inverse of its share


def both(family: Any, size: int) -> dict[str, Pair]:
    return {name: pair(family, size, dtype) for name, dtype in DTYPES.items()}


def captions(size: int, count: int, decoding: Decoding, peer_settings: dict[str, Any], names: list[str]) -> Case:
    """Captions of `count` photos after the usual prompt, `NEW` tokens each."""
    calls: dict[str, Call] = {}
    for name in names:
        p = pair("caption", size, DTYPES[name])
        pixels = p.photos(count, DTYPES[name])
        prompt = p.tokenizer.prompt_ids(p.config.prompt)
        settings = {"min_new_tokens": NEW, "max_new_tokens": NEW, **peer_settings}
        calls[f"ours {name}"] = _ours_captions(p.ours, p, pixels, decoding)
        if name == "f32" and "bf16" in names:
            calls["ours f32, not packed"] = _ours_captions(p.plain, p, pixels, decoding)
        if name == "bf16" and int8_linear.supports():
            calls["ours int8"] = _ours_captions(p.in_8_bits(), p, pixels, decoding)
        calls[f"peer {name}"] = _peer_captions(p, pixels, prompt, settings)
    rows = {"f32": 1, "bf16": 0.5}
    beams = decoding.num_beams if isinstance(decoding, Beam) else 1
    work = {f"ours {n}": _caption_work(p.config, count, beams, rows[n]) for n in names}
    pairs = [(ours, "peer f32") for ours in calls if ours.startswith("ours")]
    pairs += [("ours bf16", "peer bf16")] if "bf16" in names else []
    return Case(calls, pairs, same_ids, work, rounds=5 if count == 1 else 2)


def _ours_captions(model: BlipModel, p: Pair, pixels: Tensor, decoding: Decoding) -> Call:
    def call() -> list[list[int]]:
        generator = torch.Generator().manual_seed(0) if isinstance(decoding, Nucleus) else None
        with torch.inference_mode():
            captions = inference.caption(model, p.tokenizer, model.encode_image(pixels), decoding, generator=generator)
        return [list(texts[0].ids) for texts in captions]

    return call


def _peer_captions(p: Pair, pixels: Tensor, prompt: list[int], settings: dict[str, Any]) -> Call:
    ids = torch.tensor([[*prompt, p.config.text.sep_id]] * len(pixels))  # `generate` drops the end

    def call() -> list[list[int]]:
        torch.manual_seed(0)
        with torch.inference_mode():
            out = p.peer.generate(pixels, ids.clone(), torch.ones_like(ids), **settings)
        return [row[len(prompt) :] for row in out.tolist()]

    return call


def vqa() -> Case:
    """One question of 10 tokens about a photo at 480 px, 9 tokens of answer forced."""
    calls: dict[str, Call] = {}
    for name, p in both("vqa", 480).items():
        calls |= {f"ours {name}": ours_answer(p, p.photos(1, DTYPES[name])), f"peer {name}": _peer_answer(p, name)}
    pairs = [("ours f32", "peer f32"), ("ours bf16", "peer f32"), ("ours bf16", "peer bf16")]
    states = 12 * 4 * 10 * 768 * 768 / 1e9
    flops = _vision(p.config) + _cross(p.config) + 10 * _row(p.config) + states + (1 + 8 * 3) * 0.25
    work = {f"ours {n}": Work(flops, 9 * WEIGHTS * share) for n, share in (("f32", 1), ("bf16", 0.5))}
    return Case(calls, pairs, same_ids, work)


QUESTION = "what is the dog doing in the water"  # 8 words, [ENC], [SEP]
ANSWER = Beam(num_beams=3, max_length=10, min_length=10)


def ours_answer(p: Pair, pixels: Tensor) -> Call:
    def call() -> list[list[int]]:
        with torch.inference_mode():
            embeds = p.ours.encode_image(pixels)
            answers = inference.answer(p.ours, p.tokenizer, embeds, [QUESTION], ANSWER)
        return [list(texts[0].ids) for texts in answers]

    return call


def _peer_answer(p: Pair, name: str) -> Call:
    pixels, encoded = p.photos(1, DTYPES[name]), p.tokenizer.encode([QUESTION], first="enc")
    settings = {"num_beams": 3, "do_sample": False, "min_new_tokens": 9, "max_new_tokens": 9}

    def call() -> list[list[int]]:
        with torch.inference_mode():
            out = p.peer.generate(encoded.input_ids, pixels, encoded.attention_mask, **settings)
        return [row[1:] for row in out.tolist()]

    return call


def itm() -> Case:
    """One photo at 384 px against 128 texts of 8 to 19 tokens."""
    calls: dict[str, Call] = {}
    texts = match_texts()
    sides = both("retrieval", 384)
    for name, p in sides.items():
        pixels = p.photos(1, DTYPES[name])
        calls[f"ours {name}"] = ours_match(p, pixels, texts)
        for how, width in (("padded to longest", None), ("padded to 35", 35)):
            calls[f"peer {name}, {how}"] = _peer_match(p, pixels, texts, width)
    calls["peer f32, states repeated, 35"] = _peer_repeated(sides["f32"], texts[:8])
    lengths = p.tokenizer.encode(texts).attention_mask.sum()
    work = Work(_vision(p.config) + _cross(p.config) + float(lengths) * _row(p.config))
    pairs = [("ours f32", name) for name in calls if name.startswith("peer f32")]
    pairs += [("ours bf16", name) for name in calls if name.startswith("peer")]
    scale = {"peer f32, states repeated, 35": 128 / 8}
    return Case(calls, pairs, same_logits, {"ours f32": work, "ours bf16": work}, 2, scale)


def match_texts() -> list[str]:
    """128 texts of 8 to 19 tokens."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.choice((6, 7, 8, 9, 10, 10, 11, 12, 13, 14, 17)))) for _ in range(128)]


def ours_match(p: Pair, pixels: Tensor, texts: list[str]) -> Call:
    def call() -> Tensor:
        encoded = p.tokenizer.encode(texts, first="enc", max_length=35)
        with torch.inference_mode():
            return inference.match_logits(p.ours, p.ours.encode_image(pixels), encoded)

    return call


def _peer_match(p: Pair, pixels: Tensor, texts: list[str], width: int | None) -> Call:
    """The fastest way: vision once, its states [1, N, D] broadcast to all texts."""
    padding: Any = "longest" if width is None else "max_length"
    encoded = p.tokenizer.encode(texts, first="enc", max_length=width, padding=padding)

    def call() -> Tensor:
        with torch.inference_mode():
            embeds = p.peer.vision_model(pixels)[0]
            return _peer_logits(p, embeds, encoded)

    return call


def _peer_repeated(p: Pair, texts: list[str]) -> Call:
    """The original's way: states repeated for every text. Only a part of the texts, without the vision tower."""
    encoded = p.tokenizer.encode(texts, first="enc", max_length=35, padding="max_length")
    with torch.inference_mode():
        embeds = p.peer.vision_model(p.photos(1))[0].repeat(len(texts), 1, 1)

    def call() -> Tensor:
        with torch.inference_mode():
            return _peer_logits(p, embeds, encoded)

    return call


def _peer_logits(p: Pair, embeds: Tensor, encoded: Encoded) -> Tensor:
    seen = torch.ones(embeds.shape[:2], dtype=torch.long)
    hidden = p.peer.text_encoder(
        encoded.input_ids, encoded.attention_mask, encoder_hidden_states=embeds, encoder_attention_mask=seen
    ).last_hidden_state
    logits: Tensor = p.peer.itm_head(hidden[:, 0])
    return logits.float()


def embedding(size: int, count: int) -> Case:
    """Unit vectors of photos in the space shared with texts."""
    calls: dict[str, Call] = {}
    for name, p in both("retrieval", size).items():
        pixels = p.photos(count, DTYPES[name])
        calls |= {f"ours {name}": ours_vectors(p, pixels), f"peer {name}": _peer_vectors(p, pixels)}
    pairs = [("ours f32", "peer f32"), ("ours bf16", "peer f32"), ("ours bf16", "peer bf16")]
    work = Work(count * _vision(p.config))
    return Case(calls, pairs, same_vectors, {"ours f32": work, "ours bf16": work}, 3)


def ours_vectors(p: Pair, pixels: Tensor) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            return inference.embed_image(p.ours, pixels)

    return call


def _peer_vectors(p: Pair, pixels: Tensor) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            return F.normalize(p.peer.vision_proj(p.peer.vision_model(pixels)[0][:, 0]), dim=-1)

    return call


def _each(outputs: dict[str, Any], remark: Callable[[Any, Any, bool], str]) -> dict[tuple[str, str], str]:
    """Remark on each pair of calls; the third argument is whether both are float32 and must agree."""
    return {
        (a, b): remark(outputs[a], outputs[b], "bf16" not in a + b and "int8" not in a)
        for a in outputs
        for b in outputs
        if a.startswith("ours") and b.startswith("peer")
    }


def same_ids(outputs: dict[str, Any]) -> dict[tuple[str, str], str]:
    def remark(a: list[list[int]], b: list[list[int]], exact: bool) -> str:
        assert [len(row) for row in a] == [len(row) for row in b], "lengths differ"
        assert a == b or not exact, f"ids differ: {a} {b}"
        alike = [x == y for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True)]
        return "ids equal" if a == b else f"{sum(alike)} of {len(alike)} ids equal"

    return _each(outputs, remark)


def same_logits(outputs: dict[str, Any]) -> dict[tuple[str, str], str]:
    def remark(a: Tensor, b: Tensor, exact: bool) -> str:
        largest = (a[: len(b)] - b).abs().max().item()
        assert largest < (1e-4 if exact else 0.2), f"logits differ by {largest}"
        return f"logits within {largest:.0e}"

    return _each(outputs, remark)


def same_vectors(outputs: dict[str, Any]) -> dict[tuple[str, str], str]:
    def remark(a: Tensor, b: Tensor, exact: bool) -> str:
        cosine = F.cosine_similarity(a.float(), b.float()).min().item()
        largest = (a.float() - b.float()).abs().max().item()
        assert largest < 1e-5 or (cosine > 0.999 and not exact), f"vectors differ: {largest}, cosine {cosine}"
        return f"vectors within {largest:.0e}" if exact else f"cosine {cosine:.5f}"

    return _each(outputs, remark)


WEIGHTS = 0.49  # billions of bytes that a float32 decoding step reads: layers 396 MB, word embedding 94 MB


def _vision(config: BlipConfig) -> float:
    v = config.vision
    t, d = v.num_tokens, v.width
    return (v.num_layers * (24 * t * d * d + 4 * t * t * d) + 1536 * (t - 1) * d) / 1e9


def _cross(config: BlipConfig) -> float:
    """Keys and values of a photo, all layers."""
    return 12 * 4 * config.vision.num_tokens * config.vision.width * 768 / 1e9


def _row(config: BlipConfig) -> float:
    """A token through the text layers, without the head."""
    return 12 * (28 * 768 * 768 + 4 * config.vision.num_tokens * 768) / 1e9


def _caption_work(config: BlipConfig, count: int, beams: int, share: float) -> Work:
    rows = 4 + (NEW - 1) * beams  # the prompt once per photo
    head = (1 + (NEW - 1) * beams) * 0.048
    return Work(count * (_vision(config) + _cross(config) + rows * _row(config) + head), NEW * WEIGHTS * share)


LENGTH = 4 + NEW  # of ids, the prompt included
BEAM = Beam(num_beams=3, max_length=LENGTH, min_length=LENGTH)
PEER_BEAM = {"num_beams": 3, "do_sample": False}
GREEDY = Greedy(max_length=LENGTH, min_length=LENGTH)
NUCLEUS = Nucleus(top_p=0.9, max_length=LENGTH, min_length=LENGTH)
PEER_NUCLEUS = {"do_sample": True, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}

CASES: dict[str, tuple[str, Callable[[], Case]]] = {
    "caption-b1": ("caption 384, beam 3, 1 photo", lambda: captions(384, 1, BEAM, PEER_BEAM, ["f32", "bf16"])),
    "caption-b8": ("caption 384, beam 3, 8 photos", lambda: captions(384, 8, BEAM, PEER_BEAM, ["f32", "bf16"])),
    "greedy-b8": ("caption 384, greedy, 8 photos", lambda: captions(384, 8, GREEDY, {"do_sample": False}, ["f32"])),
    "nucleus-b8": ("caption 384, nucleus 0.9, 8 photos", lambda: captions(384, 8, NUCLEUS, PEER_NUCLEUS, ["f32"])),
    "vqa": ("VQA 480, beam 3, 1 photo", vqa),
    "itm": ("ITM 384, 1 photo x 128 texts", itm),
    "embed-224": ("image embedding 224, 8 photos", lambda: embedding(224, 8)),
    "embed-384": ("image embedding 384, 8 photos", lambda: embedding(384, 8)),
}
