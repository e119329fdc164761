"""The public `Model`: opens images, checks arguments and makes batches; its backend computes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Literal, TypedDict, Unpack, get_args, overload

import numpy as np
from PIL import Image

from blip_lite.arrays import Floats, match_probability
from blip_lite.backend import Backend, Head, Images, Layout
from blip_lite.beam_search import Hypothesis
from blip_lite.checks import check_bool, check_int, check_path, check_text
from blip_lite.config import BlipConfig, Family, families_with
from blip_lite.decoding import Beam, Decoding, DecodingOptions, Nucleus, make_decoding
from blip_lite.errors import MissingPart, UsageError
from blip_lite.explanation import Explanation, Method, Subject
from blip_lite.image_inputs import (
    NO_IMAGES,
    ImageLike,
    OnError,
    as_batch,
    as_texts,
    check_head,
    check_images,
    check_on_error,
    check_pairs,
    image_key,
    open_all,
    open_batches,
    open_image,
    pair_questions,
    text_list,
)
from blip_lite.results import Answer, Caption, Embeddings, ErrorResult, Hit, MatchResult, ScoredText, Verdict
from blip_lite.tokenizer import Tokenizer, clean_caption

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for `default`: a plain `Model` means `Model[Backend]`

    B_co = TypeVar("B_co", bound=Backend, default=Backend, covariant=True)
else:
    from typing import TypeVar

    B_co = TypeVar("B_co", covariant=True)


class StreamOptions(TypedDict, total=False):
    """Keyword arguments of `Model.caption_iter`."""

    prompt: str | None
    seed: int | None
    batch_size: int | None
    generator: object | None  # a torch.Generator


class CaptionOptions(StreamOptions, DecodingOptions, total=False):
    """Keyword arguments of `Model.caption`."""


class AnswerOptions(TypedDict, total=False):
    """Keyword arguments of `Model.answer`."""

    answers: Iterable[str] | None
    top: int
    k: int
    beams: int
    max_length: int
    min_length: int


class Model(Generic[B_co]):
    """A loaded BLIP model. Several threads may call it.

    Methods named `*_batch` take opened RGB images and run them as one batch; the others take images of any kind.
    """

    def __init__(self, backend: B_co) -> None:
        self.backend = backend

    def __repr__(self) -> str:
        return f"Model({self.name!r}, family={self.family!r}, backend={self.backend!r})"

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def config(self) -> BlipConfig:
        return self.backend.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.backend.tokenizer

    @property
    def family(self) -> Family:
        return self.config.family

    @property
    def capabilities(self) -> frozenset[str]:
        """The calls that this model supports."""
        return self.backend.capabilities

    @property
    def default_batch_size(self) -> int:
        return self.backend.default_batch_size

    def require(self, capability: str) -> None:
        """Raise MissingPart if the model does not support a call."""
        if capability in self.capabilities:
            return
        if capability in self.config.capabilities:
            raise MissingPart(f"model '{self.name}' cannot {capability}: {self.backend.missing_reason(capability)}")
        families = " or ".join(families_with(capability))
        raise MissingPart(f"model '{self.name}' cannot {capability}; models of the family {families} can", capability)

    # A str is both one image and an iterable of str: the first overload that fits counts, as at run time.
    @overload
    def caption(  # type: ignore[overload-overlap]
        self, images: ImageLike, *, on_error: Literal["raise"] = "raise", **options: Unpack[CaptionOptions]
    ) -> Caption: ...

    @overload
    def caption(  # type: ignore[overload-overlap]
        self, images: ImageLike, *, on_error: Literal["record"], **options: Unpack[CaptionOptions]
    ) -> Caption | ErrorResult: ...

    @overload
    def caption(
        self, images: Iterable[ImageLike], *, on_error: Literal["raise"] = "raise", **options: Unpack[CaptionOptions]
    ) -> list[Caption]: ...

    @overload
    def caption(
        self, images: Iterable[ImageLike], *, on_error: Literal["record"], **options: Unpack[CaptionOptions]
    ) -> list[Caption | ErrorResult]: ...

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        prompt: str | None = None,
        seed: int | None = 0,
        batch_size: int | None = None,
        generator: object | None = None,
        on_error: OnError = "raise",
        **decoding: Unpack[DecodingOptions],
    ) -> Caption | ErrorResult | Sequence[Caption | ErrorResult]:
        """Describe images: a Caption for one image, a list for a sequence.

        Args:
            images: one image or several; see `ImageLike`. An array [N, H, W, 3] returns a list.
            prompt: start of the caption, not part of the result; None = the model's own.
            seed: sampling depends on this and the image's key alone; None = different each time.
            batch_size: images per batch; None = what suits the device.
            generator: a torch.Generator for the whole batch, drawing as the original does.
            on_error: "record" returns an ErrorResult in place of an image that cannot be read.
            decoding: beams (1 is greedy), sample, top_p, top_k, temperature, min_length and max_length (counting all
                ids: prompt, start and end), num_captions, repetition_penalty; see `make_decoding` for the defaults.
        """
        self.require("sample" if decoding.get("sample") else "caption")
        single, batch = as_batch(images)
        results = self.caption_iter(
            batch,
            make_decoding(**decoding),
            prompt=prompt,
            seed=seed,
            batch_size=batch_size,
            generator=generator,
            on_error=on_error,
        )
        if single:
            return next(results)
        captions = list(results)
        if not captions:
            raise UsageError(NO_IMAGES)
        return captions

    @overload
    def caption_iter(
        self,
        images: Iterable[ImageLike],
        decoding: Decoding | None = None,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[StreamOptions],
    ) -> Iterator[Caption]: ...

    @overload
    def caption_iter(
        self,
        images: Iterable[ImageLike],
        decoding: Decoding | None = None,
        *,
        on_error: OnError,
        **options: Unpack[StreamOptions],
    ) -> Iterator[Caption | ErrorResult]: ...

    def caption_iter(
        self,
        images: Iterable[ImageLike],
        decoding: Decoding | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = 0,
        batch_size: int | None = None,
        generator: object | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[Caption | ErrorResult]:
        """Yield captions of a stream of images in order, reading one batch at a time."""
        self.require("caption")
        check_on_error(on_error)
        if batch_size is not None:
            check_int("batch_size", batch_size, 1)
        size, side = batch_size or self.default_batch_size, self.config.vision.image_size
        for batch in open_batches(as_batch(images)[1], size, on_error, side):
            opened = [(key, image) for key, image in batch if isinstance(image, Image.Image)]
            captions = self.caption_batch(
                [image for _, image in opened],
                decoding,
                prompt=prompt,
                seed=seed,
                generator=generator,
                keys=[key for key, _ in opened],
            )
            results = iter(captions)
            for _, image in batch:
                yield image if isinstance(image, ErrorResult) else next(results)

    def caption_batch(
        self,
        images: Images,
        decoding: Decoding | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = 0,
        generator: object | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[Caption]:
        """Captions of opened RGB images, as one batch. decoding: None = `Beam()`; keys: for the seeds of sampling."""
        self.require("sample" if isinstance(decoding, Nucleus) else "caption")
        if prompt is not None:
            check_text("prompt", prompt)
        if seed is not None:
            check_int("seed", seed, 0)
        if not isinstance(decoding, Decoding | None):
            raise UsageError(f"decoding {decoding!r:.40}; must be Greedy, Beam or Nucleus of blip_lite.decoding")
        check_images(images, 0)
        keys = [str(i) for i in range(len(images))] if keys is None else text_list(keys, "keys") if images else []
        check_pairs(len(images), len(keys), "keys")
        if not images:
            return []
        seeds = [input_seed(seed, key) for key in keys]
        rows = self.backend.caption(images, decoding or Beam(), prompt, seeds, generator)
        return [Caption.best_of([self._caption(hypothesis) for hypothesis in row]) for row in rows]

    def _caption(self, hypothesis: Hypothesis) -> Caption:
        tokens = tuple(self.tokenizer.pieces(hypothesis.ids))
        return Caption(hypothesis.text, hypothesis.score, tokens, hypothesis.logprobs)

    @overload
    def answer(  # type: ignore[overload-overlap]
        self, images: ImageLike, questions: str, **options: Unpack[AnswerOptions]
    ) -> Answer: ...

    @overload
    def answer(
        self,
        images: ImageLike | Iterable[ImageLike],
        questions: str | Iterable[str],
        **options: Unpack[AnswerOptions],
    ) -> list[Answer]: ...

    def answer(
        self,
        images: ImageLike | Iterable[ImageLike],
        questions: str | Iterable[str],
        **options: Unpack[AnswerOptions],
    ) -> Answer | list[Answer]:
        """Answer questions about images: an Answer for one image and one question, else a list.

        A single image is used for all questions, and a single question for all images. Options: see `answer_batch`.
        """
        self.require("answer")
        single, batch = as_batch(images)
        results = self.answer_batch(*pair_questions(open_all(batch), questions), **options)
        return results[0] if single and isinstance(questions, str) else results

    def answer_batch(
        self,
        images: Images,
        questions: Sequence[str],
        *,
        answers: Iterable[str] | None = None,
        top: int = 1,
        k: int = 128,
        beams: int = 3,
        max_length: int = 10,
        min_length: int = 1,
    ) -> list[Answer]:
        """Answer question i about opened RGB image i; an image object given several times is encoded once.

        Args:
            answers: closed list to choose from; None = generate freely.
            top: number of answers per question; all but the best are `alternatives`.
            k: answers of the closed list kept after their first token.
            beams, max_length, min_length: of generation; lengths count all ids.
        """
        self.require("answer")
        check_images(images, 0)
        questions = text_list(questions, "questions") if images else list(questions)
        check_pairs(len(images), len(questions), "questions")
        check_int("k", k, 1)
        check_int("top", top, 1)
        check_int("beams", beams, 1)
        answers = None if answers is None else text_list(answers, "answers")
        if not images:
            return []
        choices = None if answers is None else self.tokenizer.arrays(answers, first="dec")
        decoding = Beam(num_beams=max(beams, top), num_captions=top, max_length=max_length, min_length=min_length)
        distinct = {id(image): image for image in images}
        position = {key: i for i, key in enumerate(distinct)}
        embeds = self.backend.encode_images(list(distinct.values()))
        results: list[Answer] = []
        for start in range(0, len(questions), self.default_batch_size):
            chunk = slice(start, start + self.default_batch_size)
            chunk_embeds = embeds[[position[id(image)] for image in images[chunk]]]
            if choices is None or answers is None:
                rows = self.backend.generate_answers(chunk_embeds, questions[chunk], decoding)
                results += [_answer([ScoredText(h.text, h.score) for h in row], "generate") for row in rows]
                continue
            ranked = self.backend.rank_answers(chunk_embeds, questions[chunk], choices, k)
            lengths = choices.attention_mask.sum(axis=1) - 1  # without [DEC]
            for indices, scores in zip(ranked.indices[:, :top], ranked.scores[:, :top], strict=True):
                texts = [ScoredText(answers[i], float(s / lengths[i])) for i, s in zip(indices, scores, strict=True)]
                results.append(_answer(texts, "rank"))
        return results

    def compare(self, image_a: ImageLike, image_b: ImageLike, text: str) -> Verdict:
        """Whether a statement is true of two images, left and right (NLVR2 models)."""
        self.require("compare")
        check_text("text", text)
        images = [open_image(image_a, "image_a"), open_image(image_b, "image_b")]
        probability = self.backend.statement_probability(images, clean_caption(text))
        return Verdict(value=probability > 0.5, score=probability)

    def match(
        self,
        images: ImageLike | Iterable[ImageLike],
        texts: str | Iterable[str],
        *,
        pairs: bool = False,
        head: Head = "both",
        max_text_length: int = 35,
    ) -> MatchResult:
        """Match scores of all images with all texts [N, M], or with `pairs` of image i with text i [N]."""
        self.require("match")
        opened, lines = open_all(images), as_texts(texts)
        return self.match_batch(opened, lines, pairs=pairs, head=head, max_text_length=max_text_length)

    def match_batch(
        self,
        images: Images,
        texts: Sequence[str],
        *,
        pairs: bool = False,
        head: Head = "both",
        max_text_length: int = 35,
    ) -> MatchResult:
        """`match` of opened RGB images."""
        self.require("match")
        check_head(head)
        check_int("max_text_length", max_text_length, 2)
        check_bool("pairs", pairs)
        check_images(images)
        texts = text_list(texts, "texts")
        if pairs:
            check_pairs(len(images), len(texts))
        return self.backend.match(images, texts, pairs, head, max_text_length)

    def match_logits(self, images: Iterable[ImageLike], texts: Sequence[str], *, max_text_length: int = 35) -> Floats:
        """ITM logits [N, M, 2] of no match and match, float32. Images are read and encoded a batch at a time."""
        self.require("match")
        check_int("max_text_length", max_text_length, 2)
        texts = text_list(texts, "texts")
        rows = [self.backend.match_logits(batch, texts, max_text_length) for batch in self._open(as_batch(images)[1])]
        return np.concatenate([np.empty((0, len(texts), 2), np.float32), *rows])

    def embed_image(
        self, images: ImageLike | Iterable[ImageLike], projected: bool = True, *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of images: unit length in the space shared with texts, or not projected the class token's states.

        tokens: the states of all positions, [N, T, D], not projected.
        """
        batches = [self.embed_image_batch(batch, projected, tokens=tokens) for batch in self._open(as_batch(images)[1])]
        if not batches:
            raise UsageError(NO_IMAGES)
        return Embeddings(np.concatenate([e.vectors for e in batches]), "image", batches[0].projected, self.name)

    def embed_image_batch(self, images: Images, projected: bool = True, *, tokens: bool = False) -> Embeddings:
        """`embed_image` of opened RGB images, as one batch."""
        check_bool("projected", projected)
        check_bool("tokens", tokens)
        projected = projected and not tokens
        self.require("match" if projected else "image")
        check_images(images)
        return Embeddings(self.backend.embed_images(images, projected, tokens), "image", projected, self.name)

    def embed_text(self, texts: str | Iterable[str], projected: bool = True, *, tokens: bool = False) -> Embeddings:
        """Vectors of texts: unit length in the space shared with images, or not projected the first token's states.

        tokens: the states of all positions, [N, T, D], not projected; shorter texts end with zeros.
        """
        check_bool("projected", projected)
        check_bool("tokens", tokens)
        projected = projected and not tokens
        self.require("match" if projected else "text")
        return Embeddings(self.backend.embed_texts(as_texts(texts), projected, tokens), "text", projected, self.name)

    def embed_multimodal(
        self, images: ImageLike | Iterable[ImageLike], texts: str | Iterable[str], *, tokens: bool = False
    ) -> Embeddings:
        """Vectors of image i with text i: the fused state of the first token, or with `tokens` of all."""
        self.require("text")
        check_bool("tokens", tokens)
        opened, lines = open_all(images), as_texts(texts)
        check_pairs(len(opened), len(lines))
        return Embeddings(self.backend.embed_pairs(opened, lines, tokens), "multimodal", False, self.name)

    def rank(self, query: ImageLike, images: Iterable[ImageLike], rerank: int = 128) -> list[Hit]:
        """Order images by how well they fit a text (a `str`) or another image (anything else), best first.

        Ordered by cosine; for a text, the best `rerank` images are then ordered by match logit + cosine, as the
        original does. An image may be read twice. `Hit.path` is its path, or its index.
        """
        self.require("match")
        check_int("rerank", rerank, 0)
        candidates = list(as_batch(images)[1])
        if not candidates:
            return []
        text = query if isinstance(query, str) else None
        vector = (self.embed_image([query]) if text is None else self.embed_text(text)).vectors[0]
        cosines = self.embed_image(candidates).vectors @ vector
        order = np.argsort(-cosines, kind="stable")
        top = order[: rerank if text is not None else 0]
        hits: list[tuple[int, float, float | None]] = [(int(i), float(cosines[i]), None) for i in order[len(top) :]]
        if text is not None and len(top):
            logits = self.match_logits([candidates[i] for i in top], [text])[:, 0]
            scores, probabilities = logits[:, 1] + cosines[top], match_probability(logits)
            best = np.argsort(-scores, kind="stable")
            hits = [*((int(top[j]), float(scores[j]), float(probabilities[j])) for j in best), *hits]
        return [
            Hit(rank, image_key(candidates[i], i), score, itc=float(cosines[i]), itm=itm)
            for rank, (i, score, itm) in enumerate(hits, 1)
        ]

    def explain(
        self,
        image: ImageLike,
        text: str | None = None,
        method: Method = "gradcam",
        layer: int | None = None,
        *,
        subject: Subject | None = None,
    ) -> Explanation:
        """Heat-maps of where the model attends for each token of a match, a caption or an answer.

        Args:
            text: a question for a model that answers, else a text to match; None = the model's own caption.
            method: gradcam, attention (of one layer), or rollout (of all layers up to one).
            layer: cross-attention layer from 0; None = the middle one (for rollout, the last).
            subject: "caption" explains `text` as a caption even if the model can match it.
        """
        if text is not None:
            check_text("text", text)
        if method not in get_args(Method):
            raise UsageError(f"method '{method}'; must be one of {', '.join(get_args(Method))}")
        if layer is not None:
            check_int("layer", layer, 0)
        return self.backend.explain(open_image(image, "image"), text, method, layer, subject)

    def save(self, folder: str | os.PathLike[str], layout: Layout = "blip") -> None:
        """Write a folder that `load` reads; with layout "hf" `from_pretrained` of Transformers reads it as well."""
        if layout not in ("blip", "hf"):
            raise UsageError(f"layout '{layout}'; must be blip or hf")
        check_path("folder", folder)
        self.backend.save(folder, layout)

    def _open(self, images: Iterable[ImageLike]) -> Iterator[list[Image.Image]]:
        """Opened images, one batch at a time. Raises UnreadableImage."""
        for batch in open_batches(images, self.default_batch_size, "raise", self.config.vision.image_size):
            yield [image for _, image in batch if isinstance(image, Image.Image)]


def _answer(texts: Sequence[ScoredText], mode: Literal["generate", "rank"]) -> Answer:
    """The best text, with the others as alternatives."""
    return Answer(texts[0].text, texts[0].score, mode, tuple(texts[1:]))


def input_seed(seed: int | None, key: str) -> int:
    """Return the seed for one input, from the run's seed and the input's key alone."""
    base = int.from_bytes(os.urandom(6)) if seed is None else seed
    return (base << 32 | zlib.crc32(key.encode("utf-8", "surrogateescape"))) % 2**63
