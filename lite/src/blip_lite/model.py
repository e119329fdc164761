"""Exported models: `load(folder)` gives what `blip.load` gives, for all that needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from blip_lite import ASSETS, face, inference, opening
from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam, Decoding
from blip_lite.engine import Engine
from blip_lite.errors import CheckpointError, MissingPart, UsageError
from blip_lite.face import Face
from blip_lite.image import prepare
from blip_lite.inference import Parts
from blip_lite.opening import ImageLike
from blip_lite.results import Caption, Embeddings, MatchResult, ScoredText, Verdict
from blip_lite.search import Floats, Generated
from blip_lite.tokenizer import Arrays, Tokenizer, clean_caption

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


class Model(Face):
    """An exported model: the calls and results of `blip.Model`, over onnxruntime. Several threads may call it."""

    @property
    def images_at_once(self) -> int:
        return face.CPU_BATCH

    def __init__(self, parts: Parts, name: str) -> None:
        self.parts, self.name = parts, name
        self.config, self.tokenizer = parts.config, parts.tokenizer

    def __repr__(self) -> str:
        return f"Model({self.name!r}, kind={self.kind!r}, engine=onnxruntime)"

    @property
    def capabilities(self) -> frozenset[str]:
        """Which calls the graphs can serve."""
        there = self.parts.engine.graphs
        return frozenset(
            call for call in GRAPHS.keys() & face.capabilities(self.config) if there.issuperset(GRAPHS[call])
        )

    def require(self, call: str) -> None:
        """Raises MissingPart when the graphs cannot serve a call."""
        if call not in face.capabilities(self.config):
            advice = f"{face.ADVICE[call]}, exported with 'blip export -m NAME -o FOLDER'"
            raise MissingPart(f"model '{self.name}' cannot {call}; {advice}")
        if call not in GRAPHS:
            raise MissingPart(f"model '{self.name}' cannot {call}; {face.ADVICE[call]}")
        missing = [graph for graph in GRAPHS[call] if graph not in self.parts.engine.graphs]
        if missing:
            raise MissingPart(f"model '{self.name}' cannot {call}: no {missing[0]}.onnx; export it without --parts")

    def captions(
        self,
        pictures: Sequence[Image.Image],
        keys: Sequence[str],
        decoding: Decoding,
        prompt: str | None,
        seed: int | None,
        generator: Any,
    ) -> list[Caption]:
        """keys, seed, generator: of sampling, which there is none of here."""
        return [self._caption(row) for row in inference.caption(self.parts, self._prepare(pictures), decoding, prompt)]

    def _caption(self, texts: Sequence[Generated]) -> Caption:
        first, *others = (
            Caption(self.tokenizer.decode(g.ids), g.score, tuple(self.tokenizer.pieces(g.ids)), g.logprobs)
            for g in texts
        )
        return Caption(first.text, first.score, first.tokens, first.logprobs, tuple(others))

    def written(self, embeds: Floats, questions: Sequence[str], decoding: Beam) -> list[list[ScoredText]]:
        rows = inference.answer(self.parts, embeds, questions, decoding)
        return [[ScoredText(self.tokenizer.decode(g.ids), g.score) for g in row] for row in rows]

    def ranked(
        self, embeds: Floats, questions: Sequence[str], answers: Sequence[str], choices: Arrays, k: int
    ) -> list[list[ScoredText]]:
        lengths = choices.attention_mask.sum(axis=1) - 1
        ranked = inference.rank_answers(self.parts, embeds, questions, choices, k=k)
        return [
            [ScoredText(answers[i], float(total / lengths[i])) for i, total in zip(places, totals, strict=True)]
            for places, totals in zip(ranked.places.tolist(), ranked.scores.tolist(), strict=True)
        ]

    def compare(self, image_a: ImageLike, image_b: ImageLike, text: str) -> Verdict:
        """Whether a statement is true of two images (NLVR2 models)."""
        self.require("compare")
        pictures = [opening.open_image(image, name) for image, name in ((image_a, "image_a"), (image_b, "image_b"))]
        embeds = self.encode(pictures)
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
        opening.check_head(head)
        pictures, lines = opening.open_all(opening.one_or_many(images)[1]), opening.texts_of(texts)
        if pairs:
            opening.check_pairs(len(pictures), len(lines))
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
        for batch in opening.batches(images, None, self.images_at_once, "raise"):
            embeds = self.encode([image for _, image in batch if isinstance(image, Image.Image)])
            rows.append(inference.match_logits(self.parts, embeds, encoded))
        return np.concatenate(rows)

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
        for batch in opening.batches(opening.one_or_many(images)[1], None, self.images_at_once, "raise"):
            pixel_values = self._prepare([image for _, image in batch if isinstance(image, Image.Image)])
            (found,) = self.parts.engine.run("vision", {"pixel_values": pixel_values}, [output])
            rows.append(found if tokens or projected else found[:, 0])
        if not rows:
            raise UsageError("images; must be at least one")
        return Embeddings(np.concatenate(rows), "image", projected, self.name)

    def embed_text(self, texts: str | Sequence[str], projected: bool = True, *, tokens: bool = False) -> Embeddings:
        """Vectors of texts: unit length in the space shared with images, or the first token's states.

        tokens: the states of all positions, [N, T, D], not projected, zero after the end of a shorter text.
        """
        projected = projected and not tokens
        self.require("match" if projected else "text")
        vectors = inference.embed_text(self.parts, opening.texts_of(texts), projected=projected, tokens=tokens)
        return Embeddings(vectors, "text", projected, self.name)

    def embed_multimodal(
        self, images: ImageLike | Iterable[ImageLike], texts: str | Sequence[str], *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of pairs of image and text: the fused state of the first token, or with `tokens` of all."""
        self.require("text")
        pictures, lines = opening.open_all(opening.one_or_many(images)[1]), opening.texts_of(texts)
        opening.check_pairs(len(pictures), len(lines))
        vectors = inference.embed_multimodal(self.parts, self.encode(pictures), lines, tokens=tokens)
        return Embeddings(vectors, "multimodal", False, self.name)

    def _prepare(self, images: Sequence[Image.Image]) -> Floats:
        config = self.config
        return prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)

    def encode(self, pictures: Sequence[Image.Image]) -> Floats:
        """image_embeds [B, N, D], some at a time."""
        return self._run_vision(pictures, ["image_embeds"])[0]

    def _seen(self, pictures: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        """image_embeds [B, N, D] and image_features [B, E]."""
        embeds, features = self._run_vision(pictures, ["image_embeds", "image_features"])
        return embeds, features

    def _run_vision(self, pictures: Sequence[Image.Image], outputs: Sequence[str]) -> list[Floats]:
        if not pictures:
            raise UsageError("images; must be at least one")
        parts = [pictures[i : i + self.images_at_once] for i in range(0, len(pictures), self.images_at_once)]
        rows = [self.parts.engine.run("vision", {"pixel_values": self._prepare(part)}, outputs) for part in parts]
        return [np.concatenate(columns) for columns in zip(*rows, strict=True)]
