"""What users call, whatever a model computes with: captions, answers and ranks over what each model does itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from blip_lite.backend import Backend, Head
from blip_lite.config import BlipConfig, Family
from blip_lite.decoding import Beam, Decoding, make_decoding
from blip_lite.errors import MissingPart, UsageError
from blip_lite.image_inputs import (
    ImageLike,
    OnError,
    as_batch,
    batches,
    check_head,
    check_pairs,
    key_of,
    open_all,
    open_image,
    pairs_of,
    texts_of,
)
from blip_lite.results import Answer, Caption, Embeddings, ErrorResult, Hit, MatchResult, ScoredText, Verdict
from blip_lite.tokenizer import clean_caption

CPU_BATCH = 8

ADVICE = {
    "caption": "use caption-base, caption-large, tiny or any pretrain-* model",
    "answer": "use vqa-base, vqa-base-capfilt or tiny-vqa",
    "match": "use a retrieval-* or pretrain-* model, or tiny",
    "text": "use any model but caption-*",
    "image": "use any model",
    "compare": "use nlvr-base",
    "sample": "use a model that captions, and not one exported for onnxruntime",
}


def capabilities(config: BlipConfig) -> frozenset[str]:
    """caption, sample, answer, match, compare, text, image: what the family's parts can serve."""
    parts = config.parts
    found = {"image"}
    if parts.decoder_reads == "image":
        found |= {"caption", "sample"}
    if parts.decoder_reads == "encoder":
        found.add("answer")
    if parts.matching:
        found.add("match")
    if parts.encoder_reads == "two images":
        found.add("compare")
    elif parts.encoder_reads:
        found.add("text")
    return frozenset(found)


class Face(Backend, Protocol):
    """What users call: images of any kind are opened, arguments checked, batches made, whatever computes them."""

    @property
    def kind(self) -> Family:
        return self.config.family

    @property
    def capabilities(self) -> frozenset[str]:
        """Which calls the model's parts can serve."""
        return capabilities(self.config)

    def require(self, call: str) -> None:
        """Raises MissingPart when the model's parts cannot serve a call."""
        if call not in self.capabilities:
            raise MissingPart(f"model '{self.name}' cannot {call}; {ADVICE[call]}")

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
        generator: Any = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Describes images: one in, one Caption out; a sequence in, a list of them.

        beams=1 is greedy. Lengths count all ids (prompt, start, end). seed: sampling depends on (seed, key) alone;
        None = fresh. generator: a torch.Generator for the whole batch, as the original draws. Exported models do not
        sample.
        """
        self.require("sample" if sample else "caption")
        decoding = make_decoding(
            beams=beams,
            sample=sample,
            top_p=top_p,
            top_k=top_k,
            temperature=temperature,
            min_length=min_length,
            max_length=max_length,
            num_captions=num_captions,
            repetition_penalty=repetition_penalty,
        )
        one, many = as_batch(images)
        found = self.caption_iter(
            many, decoding, prompt=prompt, seed=seed, batch_size=batch_size, generator=generator, on_error=on_error
        )
        return next(found) if one else list(found)

    def caption_iter(
        self,
        images: Iterable[ImageLike],
        decoding: Decoding | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = 0,
        batch_size: int | Literal["auto"] = "auto",
        generator: Any = None,
        on_error: OnError = "raise",
        keys: Iterable[str] | None = None,
    ) -> Iterator[Caption | ErrorResult]:
        """`caption` of a stream, batch by batch, in its order."""
        self.require("caption")
        size = self.default_batch_size if batch_size == "auto" else batch_size
        for batch in batches(images, keys, size, on_error):
            good = [(key, image) for key, image in batch if isinstance(image, Image.Image)]
            names, pictures = [key for key, _ in good], [image for _, image in good]
            made = self._captions(pictures, names, decoding or Beam(), prompt, seed, generator) if good else ()
            found = iter(made)
            for _, image in batch:
                yield image if isinstance(image, ErrorResult) else next(found)

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
        one, many = as_batch(images)
        pictures, numbers, asked = pairs_of(many, questions)
        if answers is not None and not answers:
            raise UsageError("answers; must be at least one, or None to answer freely")
        choices = None if answers is None else self.tokenizer.arrays(answers, first="dec")
        decoding = Beam(num_beams=max(beams, top), num_captions=top, max_length=max_length, min_length=min_length)
        embeds = self._encode(pictures)
        found: list[Answer] = []
        for start in range(0, len(asked), self.default_batch_size):
            part = slice(start, start + self.default_batch_size)
            seen, lines = embeds[numbers[part]], asked[part]
            if choices is None or answers is None:
                found += [answer_of(row, "generate") for row in self._written(seen, lines, decoding)]
            else:
                rows = self._ranked(seen, lines, answers, choices, k)
                found += [answer_of(row[:top], "rank") for row in rows]
        return found[0] if one and isinstance(questions, str) else found

    def compare(self, image_a: ImageLike, image_b: ImageLike, text: str) -> Verdict:
        """Whether a statement is true of two images (NLVR2 models)."""
        self.require("compare")
        pictures = [open_image(image, name) for image, name in ((image_a, "image_a"), (image_b, "image_b"))]
        chance = self._true(pictures, clean_caption(text))
        return Verdict(value=chance > 0.5, score=chance)

    def match(
        self,
        images: ImageLike | Iterable[ImageLike],
        texts: str | Sequence[str],
        *,
        pairs: bool = False,
        head: Head = "both",
        max_text_length: int = 35,
    ) -> MatchResult:
        """How well texts fit images: all combinations [N, M], or with `pairs` row by row [N]."""
        self.require("match")
        check_head(head)
        pictures, lines = open_all(images), texts_of(texts)
        if pairs:
            check_pairs(len(pictures), len(lines))
        return self._matched(pictures, lines, pairs, head, max_text_length)

    def match_logits(self, images: Iterable[ImageLike], texts: Sequence[str], *, max_text_length: int = 35) -> Any:
        """ITM logits [N, M, 2] (no match, match), float32. Each image is encoded once; a batch is held at a time."""
        self.require("match")
        rows = [self._match_logits(some, texts, max_text_length) for some in self._some_at_a_time(images)]
        return np.concatenate([np.empty((0, len(texts), 2), np.float32), *rows])

    def embed_image(
        self, images: ImageLike | Iterable[ImageLike], projected: bool = True, *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of images: unit length in the space shared with texts, or the class token's states.

        tokens: the states of all positions, [N, T, D], not projected.
        """
        projected = projected and not tokens
        self.require("match" if projected else "image")
        many = as_batch(images)[1]
        rows = [self._image_vectors(some, projected, tokens) for some in self._some_at_a_time(many)]
        if not rows:
            raise UsageError("images; must be at least one")
        return Embeddings(np.concatenate(rows), "image", projected, self.name)

    def embed_text(self, texts: str | Sequence[str], projected: bool = True, *, tokens: bool = False) -> Embeddings:
        """Vectors of texts: unit length in the space shared with images, or the first token's states.

        tokens: the states of all positions, [N, T, D], not projected, zero after the end of a shorter text.
        """
        projected = projected and not tokens
        self.require("match" if projected else "text")
        return Embeddings(self._text_vectors(texts_of(texts), projected, tokens), "text", projected, self.name)

    def embed_multimodal(
        self, images: ImageLike | Iterable[ImageLike], texts: str | Sequence[str], *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of pairs of image and text: the fused state of the first token, or with `tokens` of all."""
        self.require("text")
        pictures, lines = open_all(images), texts_of(texts)
        check_pairs(len(pictures), len(lines))
        return Embeddings(self._pair_vectors(pictures, lines, tokens), "multimodal", False, self.name)

    def _some_at_a_time(self, images: Iterable[ImageLike]) -> Iterator[list[Image.Image]]:
        for batch in batches(images, None, self.default_batch_size, "raise"):
            yield [image for _, image in batch if isinstance(image, Image.Image)]

    def rank(self, query: ImageLike, images: Iterable[ImageLike], rerank: int = 128) -> list[Hit]:
        """Images by how well they fit a text (a `str`) or another image (anything else), best first.

        By cosine; of a text's best `rerank` ones then by match logit + cosine, as the original ranks. An image may be
        read twice. `Hit.path` is its path, or its number.
        """
        self.require("match")
        if rerank < 0:
            raise UsageError(f"rerank {rerank}; must be at least 0")
        many = [image.read() if hasattr(image, "read") else image for image in images]
        text = query if isinstance(query, str) else None
        vector = (self.embed_image([query]) if text is None else self.embed_text(text)).vectors[0]
        cosines = self.embed_image(many).vectors @ vector if many else np.empty(0, np.float32)
        order = np.argsort(-cosines, kind="stable")
        chosen = order[: rerank if text is not None else 0]
        hits: list[tuple[float, int, float | None]] = [(float(cosines[i]), int(i), None) for i in order[len(chosen) :]]
        if text is not None and len(chosen):
            logits = self.match_logits([many[i] for i in chosen], [text])[:, 0]
            chances = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
            scores = logits[:, 1] + cosines[chosen]
            best = np.argsort(-scores, kind="stable")
            hits = [*((float(scores[j]), int(chosen[j]), float(chances[j])) for j in best), *hits]
        return [
            Hit(place, key_of(many[i], i), score, itc=float(cosines[i]), itm=itm)
            for place, (score, i, itm) in enumerate(hits, 1)
        ]


def answer_of(texts: Sequence[ScoredText], mode: Literal["generate", "rank"]) -> Answer:
    """The best first, the others as alternatives."""
    return Answer(texts[0].text, texts[0].score, mode, tuple(texts[1:]))
