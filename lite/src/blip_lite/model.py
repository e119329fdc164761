"""Exported models: `load(folder)` gives what `blip.load` gives, for all that needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_lite import ASSETS, face, inference
from blip_lite.backend import Head, Pictures
from blip_lite.beam_search import Floats
from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam, Decoding
from blip_lite.engine import Engine
from blip_lite.errors import CheckpointError, MissingPart
from blip_lite.face import Face
from blip_lite.image import prepare
from blip_lite.inference import Parts
from blip_lite.results import Caption, MatchResult, ScoredText
from blip_lite.tokenizer import Arrays, Tokenizer

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
    def default_batch_size(self) -> int:
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
        if call in self.capabilities:
            return
        why = f"; {face.ADVICE[call]}"
        if call not in face.capabilities(self.config):
            why += ", exported with 'blip export -m NAME -o FOLDER'"
        elif call in GRAPHS:
            lacking = next(graph for graph in GRAPHS[call] if graph not in self.parts.engine.graphs)
            why = f": no {lacking}.onnx; export it without --parts"
        raise MissingPart(f"model '{self.name}' cannot {call}{why}")

    def _captions(
        self,
        pictures: Pictures,
        keys: Sequence[str],
        decoding: Decoding,
        prompt: str | None,
        seed: int | None,
        generator: Any,
    ) -> list[Caption]:
        """keys, seed, generator: of sampling, which there is none of here."""
        pieces, decode = self.tokenizer.pieces, self.tokenizer.decode
        return [
            Caption.best_of([Caption(decode(g.ids), g.score, tuple(pieces(g.ids)), g.logprobs) for g in row])
            for row in inference.caption(self.parts, self._prepare(pictures), decoding, prompt)
        ]

    def _written(self, embeds: Floats, questions: Sequence[str], decoding: Beam) -> list[list[ScoredText]]:
        rows = inference.answer(self.parts, embeds, questions, decoding)
        return [[ScoredText(self.tokenizer.decode(g.ids), g.score) for g in row] for row in rows]

    def _ranked(
        self, embeds: Floats, questions: Sequence[str], answers: Sequence[str], choices: Arrays, k: int
    ) -> list[list[ScoredText]]:
        lengths = choices.attention_mask.sum(axis=1) - 1
        ranked = inference.rank_answers(self.parts, embeds, questions, choices, k=k)
        return [
            [ScoredText(answers[i], float(total / lengths[i])) for i, total in zip(indices, totals, strict=True)]
            for indices, totals in zip(ranked.indices.tolist(), ranked.scores.tolist(), strict=True)
        ]

    def _true(self, pictures: Pictures, statement: str) -> float:
        embeds = self._encode(pictures)
        return float(inference.reason(self.parts, embeds[:1], embeds[1:], [statement])[0])

    def _matched(
        self, pictures: Pictures, texts: Sequence[str], pairs: bool, head: Head, max_length: int
    ) -> MatchResult:
        embeds, features = self._run_vision(pictures, ["image_embeds", "image_features"])
        itm = itc = None
        if head != "itc":
            encoded = self.tokenizer.arrays(texts, first="enc", max_length=max_length)
            logits = (inference.paired_logits if pairs else inference.match_logits)(self.parts, embeds, encoded)
            itm = inference.chances(logits)
        if head != "itm":
            others = inference.embed_text(self.parts, texts, max_length=max_length)
            itc = (features * others).sum(axis=1) if pairs else features @ others.T
        return MatchResult(itm, itc)

    def _match_logits(self, pictures: Pictures, texts: Sequence[str], max_length: int) -> Floats:
        encoded = self.tokenizer.arrays(texts, first="enc", max_length=max_length)
        return inference.match_logits(self.parts, self._encode(pictures), encoded)

    def _image_vectors(self, pictures: Pictures, projected: bool, tokens: bool) -> Floats:
        (found,) = self._run_vision(pictures, ["image_features" if projected else "image_embeds"])
        return found if tokens or projected else found[:, 0]

    def _text_vectors(self, texts: Sequence[str], projected: bool, tokens: bool) -> Floats:
        return inference.embed_text(self.parts, texts, projected=projected, tokens=tokens)

    def _pair_vectors(self, pictures: Pictures, texts: Sequence[str], tokens: bool) -> Floats:
        return inference.embed_multimodal(self.parts, self._encode(pictures), texts, tokens=tokens)

    def _prepare(self, images: Sequence[Image.Image]) -> Floats:
        config = self.config
        return prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)

    def _encode(self, pictures: Pictures) -> Floats:
        """image_embeds [B, N, D], some at a time."""
        return self._run_vision(pictures, ["image_embeds"])[0]

    def _run_vision(self, pictures: Pictures, outputs: Sequence[str]) -> list[Floats]:
        parts = [pictures[i : i + self.default_batch_size] for i in range(0, len(pictures), self.default_batch_size)]
        rows = [self.parts.engine.run("vision", {"pixel_values": self._prepare(part)}, outputs) for part in parts]
        return [np.concatenate(columns) for columns in zip(*rows, strict=True)]
