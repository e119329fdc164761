"""What calls give back: frozen values whose `to_dict` is the record of the command line (`blip schema NAME`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ErrorResult:
    """In place of a result where an input failed and the caller asked for records."""

    key: str
    type: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"key": self.key, "error": {"type": self.type, "reason": self.reason}}


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption. `score` is the mean log-probability of its tokens, the end included (at most 0)."""

    text: str
    score: float
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[Caption, ...] = ()
    itm: float | None = None

    @classmethod
    def best_of(cls, captions: Sequence[Caption]) -> Caption:
        """The first, with the others as alternatives."""
        return replace(captions[0], alternatives=tuple(captions[1:]))

    def to_dict(self) -> dict[str, Any]:
        others = [{"text": other.text, "score": other.score} for other in self.alternatives]
        return {"text": self.text, "score": self.score, "alternatives": others or None, "itm": self.itm}


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text and the mean log-probability of its tokens, the end included."""

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and, where several were asked for, the others."""

    text: str
    score: float
    mode: str = "generate"
    alternatives: tuple[ScoredText, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        others = [{"text": other.text, "score": other.score} for other in self.alternatives]
        return {"text": self.text, "score": self.score, "mode": self.mode, "alternatives": others or None}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a statement is true of two images; `score` is the chance that it is."""

    value: bool
    score: float

    def to_dict(self) -> dict[str, Any]:
        return {"text": str(self.value).lower(), "score": self.score, "mode": "statement"}


@dataclass(frozen=True, slots=True)
class MatchResult:
    """Chance of a match (ITM) and cosine (ITC), each [N, M], or [N] for pairs; None where not asked for."""

    itm: NDArray[np.float32] | None
    itc: NDArray[np.float32] | None

    def best(self) -> list[int]:
        """Index of the best text of each image."""
        scores = self.itm if self.itm is not None else self.itc
        assert scores is not None, "one head at least"
        return [int(i) for i in scores.argmax(axis=-1).ravel()]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors [N, D] float32."""

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
    """A photo that was found. `score` orders: the cosine `itc`, or after a second look the logit of a match + cosine.

    `path` is the photo's path, or its number in what was given; `itm` the chance of a match where it was asked for.
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
