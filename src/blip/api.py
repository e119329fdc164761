"""`blip.load(name)` and what it returns: paths, pictures and strings in, values out."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from blip import inference
from blip.checkpoint.catalogue import ENTRIES, Entry, find
from blip.checkpoint.files import write_folder, write_hf_folder
from blip.checkpoint.load import Loaded, random_tiny
from blip.checkpoint.load import load as load_checkpoint
from blip.checkpoint.locate import locate, obtain
from blip.heatmaps.explain import Subject, explain
from blip.heatmaps.methods import Method
from blip.io.image import prepare
from blip.model.mkldnn_linear import pack
from blip.runtime import choose_device, choose_dtype
from blip.tokenizer import Encoded
from blip_lite import face, image_inputs
from blip_lite.backend import Head, Pictures
from blip_lite.config import Family
from blip_lite.decoding import Beam, Decoding
from blip_lite.errors import UsageError
from blip_lite.explanation import Explanation
from blip_lite.face import Face
from blip_lite.image_inputs import ImageLike
from blip_lite.results import (
    Caption,
    MatchResult,
    ScoredText,
)
from blip_lite.tokenizer import Arrays

DEFAULT = "tiny"
GPU_BATCH = 64


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    image_size: int | None = None,
    compile: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    strict: bool = True,
) -> Model:
    """A model by name, file, folder or hub id; without one BLIP_MODEL, else the bundled `tiny`.

    Raises UnknownModel, OfflineError, CheckpointMismatch, EnvironmentProblem (a device that is not there).
    """
    where = choose_device(device)
    name = os.fspath(name or os.environ.get("BLIP_MODEL") or DEFAULT)
    cache = None if cache_dir is None else Path(cache_dir)
    loaded = load_checkpoint(name, image_size=image_size, cache_dir=cache, offline=offline, strict=strict)
    if threads is not None:
        torch.set_num_threads(threads)
    model = Model(loaded).to(where, choose_dtype(dtype, where))
    if compile:
        model.module.compile()
    else:
        pack(model.module)
    return model


def load_random(name: str = "tiny", *, kind: Family = "pretrain", seed: int = 0) -> Model:
    """A very small model with seeded random weights; needs no files."""
    if name != "tiny":
        raise UsageError(f"random model '{name}'; must be tiny")
    loaded = random_tiny(kind, seed=seed)
    pack(loaded.model)
    return Model(loaded)


def list_models() -> list[str]:
    """Names that `load` knows."""
    return [entry.name for entry in ENTRIES]


def info(name: str) -> Entry:
    """Where a model comes from, what it was trained on, its published scores and its licence."""
    return find(name)


def download(name: str, *, cache_dir: str | os.PathLike[str] | None = None, offline: bool | None = None) -> Path:
    """The file or folder of a model; fetched once, then checked and cached."""
    cache = None if cache_dir is None else Path(cache_dir)
    return obtain(locate(name, cache), offline=offline, cache_dir=cache)


def save(model: Model, folder: str | os.PathLike[str], layout: Literal["blip", "hf"] = "blip") -> None:
    """Writes a folder that `load` reads; with "hf" one that `from_pretrained` of Transformers reads as well.

    Raises ConfigError for a model that Transformers has no class for, such as `tiny` with its convolutional stem.
    """
    if layout not in ("blip", "hf"):
        raise UsageError(f"layout '{layout}'; must be blip or hf")
    write = write_hf_folder if layout == "hf" else write_folder
    write(Path(folder), model.module.state_dict(), model.config, model.vocab)


class Model(Face):
    """A loaded model. Calls from several threads are served one after the other."""

    def __init__(self, loaded: Loaded) -> None:
        self.module, self.config, self.tokenizer, self.name = (
            loaded.model,
            loaded.config,
            loaded.tokenizer,
            loaded.name,
        )
        self.vocab = loaded.vocab  # the vocabulary file where it is not the bundled one
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, kind={self.kind!r}, device={self.device}, dtype={self.dtype})"

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.vision.cls_token.dtype

    @property
    def default_batch_size(self) -> int:
        return face.CPU_BATCH if self.device.type == "cpu" else GPU_BATCH

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Model:
        """Moves the weights; returns the model itself."""
        self.module.to(device=device, dtype=dtype)
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that `load` reads."""
        save(self, folder)

    def _captions(
        self,
        pictures: Pictures,
        keys: Sequence[str],
        decoding: Decoding,
        prompt: str | None,
        seed: int | None,
        generator: torch.Generator | None,
    ) -> list[Caption]:
        pixel_values, seeds = self._prepare(pictures), [_seed(seed, key) for key in keys]
        with self._lock, torch.inference_mode():
            rows = inference.caption(
                self.module, self.tokenizer, pixel_values, decoding, prompt=prompt, seeds=seeds, generator=generator
            )
        return [
            Caption.best_of([Caption(h.text, h.score, tuple(self.tokenizer.pieces(h.ids)), h.logprobs) for h in row])
            for row in rows
        ]

    def _encode(self, pictures: Pictures) -> Tensor:
        some = range(0, len(pictures), self.default_batch_size)
        with self._lock, torch.inference_mode():
            parts = (self._prepare(pictures[i : i + self.default_batch_size]) for i in some)
            return torch.cat([self.module.encode_image(part) for part in parts])

    def _written(self, embeds: Tensor, questions: Sequence[str], decoding: Beam) -> list[list[ScoredText]]:
        with self._lock, torch.inference_mode():
            rows = inference.answer(self.module, self.tokenizer, embeds, questions, decoding)
        return [[ScoredText(h.text, h.score) for h in row] for row in rows]

    def _ranked(
        self, embeds: Tensor, questions: Sequence[str], answers: Sequence[str], choices: Arrays, k: int
    ) -> list[list[ScoredText]]:
        encoded = Encoded(*map(torch.from_numpy, choices))
        with self._lock, torch.inference_mode():
            found = inference.rank_answers(self.module, self.tokenizer, embeds, questions, encoded, k=k)
        lengths = (choices.attention_mask.sum(axis=1) - 1).tolist()
        return [
            [ScoredText(answers[i], total / lengths[i]) for i, total in zip(indices, totals, strict=True)]
            for indices, totals in zip(found.indices.tolist(), found.scores.tolist(), strict=True)
        ]

    def _true(self, pictures: Pictures, statement: str) -> float:
        with self._lock, torch.inference_mode():
            first, second = self._prepare(pictures).chunk(2)
            return float(inference.reason(self.module, self.tokenizer, first, second, [statement]))

    def _matched(
        self, pictures: Pictures, texts: Sequence[str], pairs: bool, head: Head, max_length: int
    ) -> MatchResult:
        if head == "itc":
            features = self.embed_image(pictures).vectors
            with self._lock, torch.inference_mode():
                vectors = inference.embed_text(self.module, self.tokenizer, texts, max_length=max_length)
            others = _numpy(vectors)
            return MatchResult(None, (features * others).sum(axis=1) if pairs else features @ others.T)
        embeds = self._encode(pictures)
        with self._lock, torch.inference_mode():
            found = inference.match(self.module, self.tokenizer, embeds, texts, pairs=pairs, max_length=max_length)
        return MatchResult(_numpy(found.itm), _numpy(found.itc) if head == "both" else None)

    def _match_logits(self, pictures: Pictures, texts: Sequence[str], max_length: int) -> Any:
        encoded = self.tokenizer.encode(texts, first="enc", max_length=max_length)
        with self._lock, torch.inference_mode():
            embeds = torch.split(self.module.encode_image(self._prepare(pictures)), 1)
            return _numpy(torch.stack([inference.match_logits(self.module, one, encoded) for one in embeds]))

    def _image_vectors(self, pictures: Pictures, projected: bool, tokens: bool) -> Any:
        with self._lock, torch.inference_mode():
            pixel_values = self._prepare(pictures)
            return _numpy(inference.embed_image(self.module, pixel_values, projected=projected, tokens=tokens))

    def _text_vectors(self, texts: Sequence[str], projected: bool, tokens: bool) -> Any:
        with self._lock, torch.inference_mode():
            found = inference.embed_text(self.module, self.tokenizer, texts, projected=projected, tokens=tokens)
            return _numpy(found)

    def _pair_vectors(self, pictures: Pictures, texts: Sequence[str], tokens: bool) -> Any:
        with self._lock, torch.inference_mode():
            pixel_values = self._prepare(pictures)
            return _numpy(inference.embed_multimodal(self.module, self.tokenizer, pixel_values, texts, tokens=tokens))

    def explain(
        self,
        image: ImageLike,
        text: str | None = None,
        method: Method = "gradcam",
        layer: int | None = None,
        *,
        subject: Subject | None = None,
    ) -> Explanation:
        """Heat-maps of the image for each token of a match, a caption or an answer.

        text: a question for a VQA model, else a text to match; None = the caption that the model generates.
        method: gradcam, attention (of one layer) or rollout (of all layers up to one). layer: from 0; None = the
        middle one (rollout: the last). subject: "caption" treats a text as a caption instead of matching it.
        """
        picture = image_inputs.open_image(image, "image")
        with self._lock, torch.inference_mode():
            embeds = self.module.encode_image(self._prepare([picture]))
            return explain(self.module, self.tokenizer, embeds, text, method, layer, subject=subject, image=picture)

    def _prepare(self, images: Sequence[Image.Image]) -> Tensor:
        config = self.config
        values = prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)
        return values.to(self.device, self.dtype)


def _seed(seed: int | None, key: str) -> int:
    """A seed for one input, from the run's seed and its key alone."""
    base = int.from_bytes(os.urandom(6)) if seed is None else seed
    return (base << 32 | zlib.crc32(key.encode("utf-8", "surrogateescape"))) % 2**63


def _numpy(x: Tensor) -> Any:
    return x.float().cpu().numpy()
