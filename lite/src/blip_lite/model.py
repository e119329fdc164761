"""Exported models: `load(folder)` gives what `blip.load` gives, for all that needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from blip_lite import ASSETS, face, inference
from blip_lite.config import BlipConfig, Family
from blip_lite.decoding import Beam, Decoding, decoding_of
from blip_lite.engine import Engine
from blip_lite.errors import CheckpointError, MissingPart, UsageError
from blip_lite.face import ImageLike, OnError
from blip_lite.image import prepare
from blip_lite.inference import Parts
from blip_lite.results import Caption, Embeddings, ErrorResult, Hit, MatchResult, ScoredText, Verdict
from blip_lite.search import Floats, Generated
from blip_lite.tokenizer import Tokenizer, clean_caption

CONFIG = "config.json"
GRAPHS = {  # what each call runs
    "caption": ("vision", "cross", "decoder"),
    "answer": ("vision", "fuse", "cross", "decoder"),
    "match": ("vision", "text", "match"),
    "text": ("vision", "text", "fuse"),
    "image": ("vision",),
    "compare": ("vision", "reason"),
}


def load(folder: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> Model:
    """The model of a folder that `blip export` wrote; without one BLIP_MODEL, else the bundled `tiny`.

    threads: None = the physical cores. Raises CheckpointError for any other folder.
    """
    name = os.fspath(folder or os.environ.get("BLIP_MODEL") or "tiny")
    path = ASSETS / name if name == "tiny" else Path(name).expanduser()
    if not is_exported(path):
        raise CheckpointError(f"{name}: no exported model; 'blip export -m MODEL -o {name}' writes one")
    config = _config(path / CONFIG)
    return Model(Parts(Engine(path, threads=threads), config, Tokenizer.from_config(config, path)), name)


def is_exported(path: Path) -> bool:
    """Whether a folder holds graphs."""
    return (path / CONFIG).is_file() and any(path.glob("*.onnx"))


def _config(path: Path) -> BlipConfig:
    try:
        return BlipConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error


class Model:
    """An exported model: the calls and results of `blip.Model`, over onnxruntime. Several threads may call it."""

    images_at_once = face.CPU_BATCH

    def __init__(self, parts: Parts, name: str) -> None:
        self.parts, self.name = parts, name
        self.config, self.tokenizer = parts.config, parts.tokenizer

    def __repr__(self) -> str:
        return f"Model({self.name!r}, kind={self.kind!r}, engine=onnxruntime)"

    @property
    def kind(self) -> Family:
        return self.config.family

    @property
    def capabilities(self) -> frozenset[str]:
        """Which calls the graphs can serve."""
        there = self.parts.engine.graphs
        return frozenset(
            call for call in GRAPHS.keys() & face.capabilities(self.config) if there.issuperset(GRAPHS[call])
        )

    def require(self, call: str) -> None:
        """Raises MissingPart when the graphs cannot serve a call."""
        face.require(self.name, self.config, call)
        if call not in GRAPHS:
            raise MissingPart(f"model '{self.name}' cannot {call}; {face.ADVICE[call]}")
        missing = [graph for graph in GRAPHS[call] if graph not in self.parts.engine.graphs]
        if missing:
            raise MissingPart(f"model '{self.name}' cannot {call}: no {missing[0]}.onnx; export it without --parts")

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        prompt: str | None = None,
        beams: int = 3,
        sample: bool = False,
        top_p: float = 0.9,
        top_k: int = 50,
        temperature: float = 1.0,
        min_length: int = 5,
        max_length: int = 20,
        num_captions: int = 1,
        repetition_penalty: float | None = None,
        seed: int | None = 0,
        batch_size: int | Literal["auto"] = "auto",
        on_error: OnError = "raise",
    ) -> Any:
        """Describes images: one in, one Caption out; a sequence in, a list of them. Sampling is refused."""
        decoding = decoding_of(
            beams=beams, sample=sample, top_p=top_p, top_k=top_k, temperature=temperature, min_length=min_length,
            max_length=max_length, num_captions=num_captions, repetition_penalty=repetition_penalty,
        )  # fmt: skip
        one, many = face.one_or_many(images)
        found = self.caption_iter(many, decoding, prompt=prompt, seed=seed, batch_size=batch_size, on_error=on_error)
        return next(iter(found)) if one else list(found)

    def caption_iter(
        self,
        images: Iterable[ImageLike],
        decoding: Decoding | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = 0,
        batch_size: int | Literal["auto"] = "auto",
        on_error: OnError = "raise",
        keys: Iterable[str] | None = None,
    ) -> Iterator[Caption | ErrorResult]:
        """`caption` of a stream, batch by batch, in its order. seed: of `blip.Model`; nothing is drawn here."""
        self.require("caption")
        size = self.images_at_once if batch_size == "auto" else batch_size
        for batch in face.batches(images, keys, size, on_error):
            good = [image for _, image in batch if isinstance(image, Image.Image)]
            found = iter(inference.caption(self.parts, self._prepare(good), decoding or Beam(), prompt) if good else [])
            for _, image in batch:
                yield image if isinstance(image, ErrorResult) else self._caption(next(found))

    def _caption(self, texts: Sequence[Generated]) -> Caption:
        first, *others = (
            Caption(self.tokenizer.decode(g.ids), g.score, tuple(self.tokenizer.pieces(g.ids)), g.logprobs)
            for g in texts
        )
        return Caption(first.text, first.score, first.tokens, first.logprobs, tuple(others))

    def answer(
        self,
        images: ImageLike | Iterable[ImageLike],
        questions: str | Sequence[str],
        *,
        answers: Sequence[str] | None = None,
        top: int = 1,
        k: int = 128,
        beams: int = 3,
        max_length: int = 10,
        min_length: int = 1,
    ) -> Any:
        """Answers questions about images; a single image or question goes with all of the other.

        answers: choose among these instead of writing freely; `k` of them are kept after their first token.
        top: so many answers a question, the others are `alternatives`.
        """
        self.require("answer")
        one, many = face.one_or_many(images)
        pictures, numbers, asked = face.pairs_of(many, questions)
        if answers is not None and not answers:
            raise UsageError("answers; must be at least one, or None to answer freely")
        decoding = Beam(num_beams=max(beams, top), num_captions=top, max_length=max_length, min_length=min_length)
        embeds = self._embeds(pictures)
        found = []
        for start in range(0, len(asked), self.images_at_once):
            part = slice(start, start + self.images_at_once)
            seen, lines = embeds[numbers[part]], asked[part]
            if answers is None:
                rows = inference.answer(self.parts, seen, lines, decoding)
                written = [[ScoredText(self.tokenizer.decode(g.ids), g.score) for g in row] for row in rows]
                found += [face.answer_of(row, "generate") for row in written]
            else:
                found += [face.answer_of(row[:top], "rank") for row in self._ranked(seen, lines, answers, k)]
        return found[0] if one and isinstance(questions, str) else found

    def _ranked(
        self, embeds: Floats, questions: Sequence[str], answers: Sequence[str], k: int
    ) -> list[list[ScoredText]]:
        """Best first by the whole answer's log-probability; the score is the mean of its tokens."""
        choices = self.tokenizer.arrays(answers, first="dec")
        lengths = choices.attention_mask.sum(axis=1) - 1
        ranked = inference.rank_answers(self.parts, embeds, questions, choices, k=k)
        return [
            [ScoredText(answers[i], float(total / lengths[i])) for i, total in zip(places, totals, strict=True)]
            for places, totals in zip(ranked.places.tolist(), ranked.scores.tolist(), strict=True)
        ]

    def compare(self, image_a: ImageLike, image_b: ImageLike, text: str) -> Verdict:
        """Whether a statement is true of two images (NLVR2 models)."""
        self.require("compare")
        pictures = [face.open_image(image, name) for image, name in ((image_a, "image_a"), (image_b, "image_b"))]
        embeds = self._embeds(pictures)
        chance = float(inference.reason(self.parts, embeds[:1], embeds[1:], [clean_caption(text)])[0])
        return Verdict(value=chance > 0.5, score=chance)

    def match(
        self,
        images: ImageLike | Iterable[ImageLike],
        texts: str | Sequence[str],
        *,
        pairs: bool = False,
        head: Literal["itm", "itc", "both"] = "both",
        max_text_length: int = 35,
    ) -> MatchResult:
        """How well texts fit images: all combinations [N, M], or with `pairs` row by row [N]."""
        self.require("match")
        pictures, lines = face.open_all(face.one_or_many(images)[1]), face.texts_of(texts)
        if pairs and len(pictures) != len(lines):
            raise UsageError(f"{len(pictures)} images and {len(lines)} texts; pairs must be as many of both")
        embeds, features = self._seen(pictures)
        itm = itc = None
        if head != "itc":
            encoded = self.tokenizer.arrays(lines, first="enc", max_length=max_text_length)
            logits = (inference.paired_logits if pairs else inference.match_logits)(self.parts, embeds, encoded)
            itm = inference.chances(logits)
        if head != "itm":
            others = inference.embed_text(self.parts, lines, max_length=max_text_length)
            itc = (features * others).sum(axis=1) if pairs else features @ others.T
        return MatchResult(itm, itc)

    def match_logits(self, images: Iterable[ImageLike], texts: Sequence[str], *, max_text_length: int = 35) -> Any:
        """ITM logits [N, M, 2] (no match, match), float32. A batch of images is held at a time."""
        self.require("match")
        encoded = self.tokenizer.arrays(list(texts), first="enc", max_length=max_text_length)
        rows = [np.empty((0, len(texts), 2), np.float32)]
        for batch in face.batches(images, None, self.images_at_once, "raise"):
            embeds = self._embeds([image for _, image in batch if isinstance(image, Image.Image)])
            rows.append(inference.match_logits(self.parts, embeds, encoded))
        return np.concatenate(rows)

    def rank(self, query: ImageLike, images: Iterable[ImageLike], rerank: int = 128) -> list[Hit]:
        """Images by how well they fit a text (a `str`) or another image, best first: see `face.rank`."""
        return face.rank(self, query, images, rerank)

    def embed_image(
        self, images: ImageLike | Iterable[ImageLike], projected: bool = True, *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of images: unit length in the space shared with texts, or the class token's states.

        tokens: the states of all positions, [N, T, D], not projected.
        """
        projected = projected and not tokens
        self.require("match" if projected else "image")
        output = "image_features" if projected else "image_embeds"
        rows = []
        for batch in face.batches(face.one_or_many(images)[1], None, self.images_at_once, "raise"):
            pixel_values = self._prepare([image for _, image in batch if isinstance(image, Image.Image)])
            (found,) = self.parts.engine.run("vision", {"pixel_values": pixel_values}, [output])
            rows.append(found if tokens or projected else found[:, 0])
        return Embeddings(np.concatenate(rows), "image", projected, self.name)

    def embed_text(self, texts: str | Sequence[str], projected: bool = True, *, tokens: bool = False) -> Embeddings:
        """Vectors of texts: unit length in the space shared with images, or the first token's states.

        tokens: the states of all positions, [N, T, D], not projected, zero after the end of a shorter text.
        """
        projected = projected and not tokens
        self.require("match" if projected else "text")
        vectors = inference.embed_text(self.parts, face.texts_of(texts), projected=projected, tokens=tokens)
        return Embeddings(vectors, "text", projected, self.name)

    def embed_multimodal(
        self, images: ImageLike | Iterable[ImageLike], texts: str | Sequence[str], *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of pairs of image and text: the fused state of the first token, or with `tokens` of all."""
        self.require("text")
        embeds = self._embeds(face.open_all(face.one_or_many(images)[1]))
        vectors = inference.embed_multimodal(self.parts, embeds, face.texts_of(texts), tokens=tokens)
        return Embeddings(vectors, "multimodal", False, self.name)

    def _prepare(self, images: Sequence[Image.Image]) -> Floats:
        config = self.config
        return prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)

    def _embeds(self, pictures: Sequence[Image.Image]) -> Floats:
        """image_embeds [B, N, D], some at a time."""
        return self._run_vision(pictures, ["image_embeds"])[0]

    def _seen(self, pictures: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        """image_embeds [B, N, D] and image_features [B, E]."""
        embeds, features = self._run_vision(pictures, ["image_embeds", "image_features"])
        return embeds, features

    def _run_vision(self, pictures: Sequence[Image.Image], outputs: Sequence[str]) -> list[Floats]:
        parts = [pictures[i : i + self.images_at_once] for i in range(0, len(pictures), self.images_at_once)]
        rows = [self.parts.engine.run("vision", {"pixel_values": self._prepare(part)}, outputs) for part in parts]
        return [np.concatenate(columns) for columns in zip(*rows, strict=True)]
