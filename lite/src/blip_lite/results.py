"""Results of `Model` calls: frozen values; `to_dict` returns the fields of a record of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ErrorResult:
    """Replaces the result of an input that failed, with on_error="record"."""

    key: str
    type: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"key": self.key, "error": {"type": self.type, "reason": self.reason}}


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption. `score`: mean log-probability of its tokens, including the end token (at most 0)."""

    text: str
    score: float
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[Caption, ...] = ()
    itm: float | None = None

    @classmethod
    def best_of(cls, captions: Sequence[Caption]) -> Caption:
        """The first caption, with the others as alternatives."""
        return replace(captions[0], alternatives=tuple(captions[1:]))

    def to_dict(self) -> dict[str, Any]:
        others = [{"text": other.text, "score": other.score} for other in self.alternatives]
        return {"text": self.text, "score": self.score, "alternatives": others or None, "itm": self.itm}


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text and the mean log-probability of its tokens, including the end token."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The best answer; the others, if several were requested, are `alternatives`."""

    text: str
    score: float
    mode: str = "generate"
    alternatives: tuple[ScoredText, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        others = [{"text": other.text, "score": other.score} for other in self.alternatives]
        return {"text": self.text, "score": self.score, "mode": self.mode, "alternatives": others or None}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a statement is true of two images. `score`: probability that it is true."""

    value: bool
    score: float

    def to_dict(self) -> dict[str, Any]:
        return {"text": str(self.value).lower(), "score": self.score, "mode": "statement"}


@dataclass(frozen=True, slots=True)
class MatchResult:
    """Match probability (ITM) and cosine (ITC), each [N, M], or [N] for pairs; None if not requested."""

    itm: NDArray[np.float32] | None
    itc: NDArray[np.float32] | None

    def best(self) -> list[int]:
        """Index of the best text of each image."""
        scores = self.itm if self.itm is not None else self.itc
        assert scores is not None, "one head at least"
        return [int(i) for i in scores.argmax(axis=-1).ravel()]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors [N, D] float32, or [N, T, D] of all tokens. `kind`: image, text or multimodal."""

    vectors: NDArray[np.float32]
    kind: str
    projected: bool
    model: str

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self.vectors[index]
        return row

    def similarity(self, other: Embeddings) -> NDArray[np.float32]:
        """Inner products [N, M]; cosines for projected vectors."""
        product: NDArray[np.float32] = self.vectors @ other.vectors.T
        return product


@dataclass(frozen=True, slots=True)
class Hit:
    """A photo found by a search.

    path: the photo's path, or its index in the input. score: the order of hits: the cosine `itc`, or after re-ranking
    the match logit + cosine. itm: match probability, if it was computed.
    """

    rank: int
    path: str
    score: float
    itc: float | None = None
    itm: float | None = None
    caption: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "path": self.path,
            "score": self.score,
            "itc": self.itc,
            "itm": self.itm,
            "caption": self.caption,
        }


Results = Sequence[Caption | ErrorResult]
