"""`blip.load(name)` and what it returns: paths, pictures and strings in, values out."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blip import inference
from blip.checkpoint.catalogue import ENTRIES, Entry, find
from blip.checkpoint.files import write_folder, write_hf_folder
from blip.checkpoint.load import Loaded, random_tiny
from blip.checkpoint.load import load as load_checkpoint
from blip.checkpoint.locate import locate, obtain
from blip.heatmaps import Subject, heatmaps
from blip.io.image import prepare
from blip.model.explain import Method
from blip.model.packed import pack
from blip.runtime import choose_device, choose_dtype
from blip.tokenizer import Encoded
from blip_lite import face
from blip_lite.config import Family
from blip_lite.decoding import Beam, Decoding, decoding_of
from blip_lite.errors import UsageError
from blip_lite.face import OnError
from blip_lite.results import (
    Answer,
    Caption,
    Embeddings,
    ErrorResult,
    Explanation,
    Hit,
    MatchResult,
    ScoredText,
    Verdict,
)
from blip_lite.tokenizer import clean_caption

ImageLike = face.ImageLike | Tensor
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


def save(model: Model, folder: str | os.PathLike[str], form: Literal["blip", "hf"] = "blip") -> None:
    """Writes a folder that `load` reads; with "hf" one that `from_pretrained` of Transformers reads as well.

    Raises ConfigError for a model that Transformers has no class for, such as `tiny` with its convolutional stem.
    """
    if form not in ("blip", "hf"):
        raise UsageError(f"form '{form}'; must be blip or hf")
    write = write_hf_folder if form == "hf" else write_folder
    write(Path(folder), model.module.state_dict(), model.config, model.vocab)


class Model:
    """A loaded model. Calls from several threads are served one after the other."""

    def __init__(self, loaded: Loaded) -> None:
        self.module, self.config, self.tokenizer, self.name = (
            loaded.model, loaded.config, loaded.tokenizer, loaded.name,
        )  # fmt: skip
        self.vocab = loaded.vocab  # the vocabulary file where it is not the bundled one
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, kind={self.kind!r}, device={self.device}, dtype={self.dtype})"

    @property
    def kind(self) -> Family:
        return self.config.family

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.vision.cls_token.dtype

    @property
    def capabilities(self) -> frozenset[str]:
        """Which calls the model's parts can serve."""
        return face.capabilities(self.config)

    @property
    def images_at_once(self) -> int:
        """So many in a batch where nobody says."""
        return face.CPU_BATCH if self.device.type == "cpu" else GPU_BATCH

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Model:
        """Moves the weights; returns the model itself."""
        self.module.to(device=device, dtype=dtype)
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that `load` reads."""
        save(self, folder)

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
        generator: torch.Generator | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Describes images: one in, one Caption out; a sequence in, a list of them.

        beams=1 is greedy. Lengths count all ids (prompt, start, end). seed: sampling depends on (seed, key) alone;
        None = fresh. generator: one for the whole batch, as the original draws.
        """
        decoding = decoding_of(
            beams=beams, sample=sample, top_p=top_p, top_k=top_k, temperature=temperature, min_length=min_length,
            max_length=max_length, num_captions=num_captions, repetition_penalty=repetition_penalty,
        )  # fmt: skip
        one, many = face.one_or_many(images)
        found = list(
            self.caption_iter(
                many, decoding, prompt=prompt, seed=seed, batch_size=batch_size, generator=generator, on_error=on_error
            )
        )
        return found[0] if one else found

    def caption_iter(
        self,
        images: Iterable[ImageLike],
        decoding: Decoding | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = 0,
        batch_size: int | Literal["auto"] = "auto",
        generator: torch.Generator | None = None,
        on_error: OnError = "raise",
        keys: Iterable[str] | None = None,
    ) -> Iterator[Caption | ErrorResult]:
        """`caption` of a stream, batch by batch, in its order."""
        self.require("caption")
        decoding = decoding or Beam()
        for batch in face.batches(images, keys, self.images_at_once if batch_size == "auto" else batch_size, on_error):
            seeds = [_seed(seed, key) for key, image in batch if isinstance(image, Image.Image)]
            pixel_values = self._prepare([image for _, image in batch if isinstance(image, Image.Image)])
            found = iter(self._captions(pixel_values, decoding, prompt, seeds, generator))
            for _, image in batch:
                yield image if isinstance(image, ErrorResult) else next(found)

    def _captions(
        self,
        pixel_values: Tensor | None,
        decoding: Decoding,
        prompt: str | None,
        seeds: Sequence[int],
        generator: torch.Generator | None,
    ) -> list[Caption]:
        if pixel_values is None:
            return []
        with self._lock, torch.inference_mode():
            rows = inference.caption(
                self.module, self.tokenizer, pixel_values, decoding, prompt=prompt, seeds=seeds, generator=generator
            )
        captions = []
        for row in rows:
            texts = [Caption(h.text, h.score, tuple(self.tokenizer.pieces(h.ids)), h.logprobs) for h in row]
            first = texts[0]
            captions.append(Caption(first.text, first.score, first.tokens, first.logprobs, tuple(texts[1:])))
        return captions

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
        choices = None if answers is None else self.tokenizer.encode(list(answers), first="dec")
        decoding = Beam(num_beams=max(beams, top), num_captions=top, max_length=max_length, min_length=min_length)
        found: list[Answer] = []
        with self._lock, torch.inference_mode():
            embeds = self.module.encode_image(cast(Tensor, self._prepare(pictures)))
            for start in range(0, len(asked), self.images_at_once):
                part = slice(start, start + self.images_at_once)
                seen, lines = embeds[numbers[part]], asked[part]
                if choices is None or answers is None:
                    rows = inference.answer(self.module, self.tokenizer, seen, lines, decoding)
                    found += [face.answer_of([ScoredText(h.text, h.score) for h in row], "generate") for row in rows]
                else:
                    ranked = inference.rank_answers(self.module, self.tokenizer, seen, lines, choices, k=k)
                    found += [face.answer_of(row[:top], "rank") for row in _ranked_texts(ranked, answers, choices)]
        return found[0] if one and isinstance(questions, str) else found

    def compare(self, image_a: ImageLike, image_b: ImageLike, text: str) -> Verdict:
        """Whether a statement is true of two images (NLVR2 models)."""
        self.require("compare")
        pictures = [face.open_image(image, name) for image, name in ((image_a, "image_a"), (image_b, "image_b"))]
        with self._lock, torch.inference_mode():
            first, second = cast(Tensor, self._prepare(pictures)).chunk(2)
            chance = float(inference.reason(self.module, self.tokenizer, first, second, [clean_caption(text)]))
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
        _, many = face.one_or_many(images)
        lines = face.texts_of(texts)
        pixel_values = cast(Tensor, self._prepare(face.open_all(many)))
        with self._lock, torch.inference_mode():
            embeds = self.module.encode_image(pixel_values, first_only=head == "itc")
            if head == "itc":
                features = self.module.project_image(embeds)
                others = inference.embed_text(self.module, self.tokenizer, lines, max_length=max_text_length)
                itc = (features * others).sum(dim=1) if pairs else features @ others.T
                return MatchResult(None, _numpy(itc))
            found = inference.match(self.module, self.tokenizer, embeds, lines, pairs=pairs, max_length=max_text_length)
        return MatchResult(_numpy(found.itm), _numpy(found.itc) if head == "both" else None)

    def rank(self, query: ImageLike, images: Iterable[ImageLike], rerank: int = 128) -> list[Hit]:
        """Images by how well they fit a text (a `str`) or another image, best first: see `face.rank`."""
        return face.rank(self, query, images, rerank)

    def match_logits(self, images: Iterable[ImageLike], texts: Sequence[str], *, max_text_length: int = 35) -> Any:
        """ITM logits [N, M, 2] (no match, match), float32. Each image is encoded once; a batch is held at a time."""
        self.require("match")
        encoded = self.tokenizer.encode(list(texts), first="enc", max_length=max_text_length)
        rows = [np.empty((0, len(texts), 2), np.float32)]
        for batch in face.batches(images, None, self.images_at_once, "raise"):
            pixel_values = cast(Tensor, self._prepare([cast(Image.Image, image) for _, image in batch]))
            with self._lock, torch.inference_mode():
                embeds = torch.split(self.module.encode_image(pixel_values), 1)
                rows.append(_numpy(torch.stack([inference.match_logits(self.module, one, encoded) for one in embeds])))
        return np.concatenate(rows)

    def embed_image(
        self, images: ImageLike | Iterable[ImageLike], projected: bool = True, *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of images: unit length in the space shared with texts, or the class token's states.

        tokens: the states of all positions, [N, T, D], not projected.
        """
        projected = projected and not tokens
        self.require("match" if projected else "image")
        _, many = face.one_or_many(images)
        rows = []
        for batch in face.batches(many, None, self.images_at_once, "raise"):
            pixel_values = cast(Tensor, self._prepare([cast(Image.Image, image) for _, image in batch]))
            with self._lock, torch.inference_mode():
                rows.append(
                    _numpy(inference.embed_image(self.module, pixel_values, projected=projected, tokens=tokens))
                )
        return Embeddings(np.concatenate(rows), "image", projected, self.name)

    def embed_text(self, texts: str | Sequence[str], projected: bool = True, *, tokens: bool = False) -> Embeddings:
        """Vectors of texts: unit length in the space shared with images, or the first token's states.

        tokens: the states of all positions, [N, T, D], not projected, zero after the end of a shorter text.
        """
        projected = projected and not tokens
        self.require("match" if projected else "text")
        lines = face.texts_of(texts)
        with self._lock, torch.inference_mode():
            vectors = inference.embed_text(self.module, self.tokenizer, lines, projected=projected, tokens=tokens)
        return Embeddings(_numpy(vectors), "text", projected, self.name)

    def embed_multimodal(
        self, images: ImageLike | Iterable[ImageLike], texts: str | Sequence[str], *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of pairs of image and text: the fused state of the first token, or with `tokens` of all."""
        self.require("text")
        _, many = face.one_or_many(images)
        lines = face.texts_of(texts)
        pixel_values = cast(Tensor, self._prepare(face.open_all(many)))
        with self._lock, torch.inference_mode():
            vectors = inference.embed_multimodal(self.module, self.tokenizer, pixel_values, lines, tokens=tokens)
        return Embeddings(_numpy(vectors), "multimodal", False, self.name)

    def explain(
        self,
        image: ImageLike,
        text: str | None = None,
        method: Method = "gradcam",
        layer: int | None = None,
        *,
        subject: Subject | None = None,
    ) -> Explanation:
        """Where the model looked for each token of a match, a caption or an answer.

        text: a question for a model that answers, else a text that is matched; None = the model's own caption.
        method: gradcam, attention (of one layer), or rollout (of all layers up to one). layer: from 0, None = the
        middle one (of rollout the last). subject: "caption" takes a text as a caption, not as one to match.
        """
        picture = face.open_image(image, "image")
        with self._lock, torch.inference_mode():
            embeds = self.module.encode_image(cast(Tensor, self._prepare([picture])))
            seen = heatmaps(self.module, self.tokenizer, embeds, text, method, layer, subject)
        maps = _numpy(seen.found.maps)
        return Explanation(seen.tokens, maps, method, seen.found.layer, seen.score, seen.subject, seen.text, picture)

    def require(self, call: str) -> None:
        """Raises MissingPart when the model's parts cannot serve a call."""
        face.require(self.name, self.config, call)

    def _prepare(self, images: Sequence[Image.Image]) -> Tensor | None:
        if not images:
            return None
        config = self.config
        values = prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)
        return values.to(self.device, self.dtype)


def _ranked_texts(ranked: inference.Ranked, answers: Sequence[str], choices: Encoded) -> list[list[ScoredText]]:
    """Best first by the whole answer's log-probability; the score is the mean of its tokens, as for written ones."""
    lengths = (choices.attention_mask.sum(dim=1) - 1).tolist()
    return [
        [ScoredText(answers[i], total / lengths[i]) for i, total in zip(places, totals, strict=True)]
        for places, totals in zip(ranked.places.tolist(), ranked.scores.tolist(), strict=True)
    ]


def _seed(seed: int | None, key: str) -> int:
    """A seed for one input, from the run's seed and its key alone."""
    base = int.from_bytes(os.urandom(6)) if seed is None else seed
    return (base << 32 | zlib.crc32(key.encode("utf-8", "surrogateescape"))) % 2**63


def _numpy(x: Tensor) -> Any:
    return x.float().cpu().numpy()
