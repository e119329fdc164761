"""The interface between `Model` and what computes: RGB images and checked texts in, results out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from PIL import Image

from blip_lite.arrays import Floats, Ids
from blip_lite.beam_search import Hypothesis
from blip_lite.config import BlipConfig, VisionConfig
from blip_lite.decoding import Beam, Decoding
from blip_lite.explanation import Explanation, Method, Subject
from blip_lite.results import MatchResult
from blip_lite.tokenizer import Arrays, Tokenizer

Images = Sequence[Image.Image]  # RGB, at least one
ImageEmbeds = Any  # [B, N, D], the backend's own array type, numpy or torch: callers only index it and pass it back
Head = Literal["itm", "itc", "both"]
Layout = Literal["blip", "hf"]


@dataclass(frozen=True)
class RankedAnswers:
    """The k answers kept for each question, best first, each [B, k]."""

    indices: Ids  # into the list of answers
    scores: Floats  # log-probability of the whole answer


def cpu_batch_size(config: VisionConfig) -> int:
    """Default number of images per batch on a CPU: 8, and up to 32 that have few tokens.

    A decoding step costs the same for more rows until its matrix products are large; beyond that, memory alone grows.
    """
    return max(8, min(32, 1600 // config.num_tokens))


class Backend(Protocol):
    """One loaded model. All results are on the CPU: numpy float32 arrays and plain values."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> BlipConfig: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def default_batch_size(self) -> int:
        """Number of images per batch by default."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """The calls that this model and backend support; see `BlipConfig.capabilities`."""
        ...

    def missing_reason(self, capability: str) -> str:
        """Why a capability of the model's family is not available here."""
        ...

    def caption(
        self,
        images: Images,
        decoding: Decoding,
        prompt: str | None,
        seeds: Sequence[int],
        generator: object | None,
    ) -> Sequence[Sequence[Hypothesis]]:
        """`decoding.num_captions` captions per image, best first. seeds: one per image; generator: instead of them."""
        ...

    def encode_images(self, images: Images) -> ImageEmbeds:
        """Hidden states of any number of images, `default_batch_size` at a time."""
        ...

    def generate_answers(
        self, image_embeds: ImageEmbeds, questions: Sequence[str], decoding: Beam
    ) -> Sequence[Sequence[Hypothesis]]:
        """`decoding.num_captions` answers to one question per image, best first."""
        ...

    def rank_answers(
        self, image_embeds: ImageEmbeds, questions: Sequence[str], answers: Arrays, k: int
    ) -> RankedAnswers:
        """The best of a closed list, encoded with first="dec"; `k` are kept after their first token."""
        ...

    def statement_probability(self, images: Images, statement: str) -> float:
        """Probability that a statement is true of two images."""
        ...

    def match(self, images: Images, texts: Sequence[str], pairs: bool, head: Head, max_length: int) -> MatchResult:
        """ITM and ITC scores [N, M], or [N] for pairs."""
        ...

    def match_logits(self, images: Images, texts: Sequence[str], max_length: int) -> Floats:
        """ITM logits [N, M, 2] of no match and match."""
        ...

    def embed_images(self, images: Images, projected: bool, tokens: bool) -> Floats:
        """[N, E] of unit length, the class token's states [N, D], or with `tokens` those of all positions [N, T, D]."""
        ...

    def embed_texts(self, texts: Sequence[str], projected: bool, tokens: bool) -> Floats:
        """Like `embed_images`; states of shorter texts end with zeros."""
        ...

    def embed_pairs(self, images: Images, texts: Sequence[str], tokens: bool) -> Floats:
        """Fused states of image i with text i: the first token's [N, D], or with `tokens` all [N, T, D]."""
        ...

    def explain(
        self,
        image: Image.Image,
        text: str | None,
        method: Method,
        layer: int | None,
        subject: Subject | None,
    ) -> Explanation:
        """Heat-maps of a match, a caption or an answer. Raises MissingPart if they are not supported."""
        ...

    def save(self, folder: str | os.PathLike[str], layout: Layout) -> None:
        """Write a folder that can be loaded again. Raises MissingPart if it is not supported."""
        ...
