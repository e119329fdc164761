"""What calls give back: frozen values whose `to_dict` is the record of the command line (`blip schema NAME`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from blip_lite.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


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


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a model looked: a map [g, g] for each token, at least 0, in `maps` [T, g, g].

    Maps of one explanation can be compared, those of two cannot. `score` is the chance of a match, or the mean
    log-probability of the tokens of a caption or answer; `layer` is the cross-attention looked at, from 0.
    """

    tokens: tuple[str, ...]
    maps: NDArray[np.float32] = field(repr=False)
    method: str
    layer: int
    score: float
    subject: str = "match"
    text: str = ""
    image: Image | None = field(default=None, repr=False, compare=False)

    def words(self) -> Explanation:
        """The same by words: pieces joined, their maps averaged, special tokens left out."""
        groups: list[list[int]] = []
        for i, token in enumerate(self.tokens):
            if token.startswith("##") and groups and groups[-1][-1] == i - 1:
                groups[-1].append(i)
            elif not _special(token):
                groups.append([i])
        joined = tuple("".join(self.tokens[i].removeprefix("##") for i in group) for group in groups)
        maps = self.maps[:0] if not groups else _stacked([self.maps[group].mean(axis=0) for group in groups])
        return replace(self, tokens=joined, maps=maps)

    def mean(self) -> NDArray[np.float32]:
        """The mean map [g, g] of all tokens but the special ones; zeros without any."""
        rows = [i for i, token in enumerate(self.tokens) if not _special(token)]
        if not rows:
            return _row(self.maps * 0, 0)
        mean: NDArray[np.float32] = self.maps[rows].mean(axis=0)
        return mean

    def map_of(self, token: str | int | None = None) -> NDArray[np.float32]:
        """The map [g, g] of a token by number, of the first token or word of that name, or for None the mean."""
        if token is None:
            return self.mean()
        for form in (self, self.words()):
            if isinstance(token, int) and -len(form.tokens) <= token < len(form.tokens):
                return _row(form.maps, token)
            if token in form.tokens:
                return _row(form.maps, form.tokens.index(str(token)))
        raise UsageError(f"no token {token!r}; must be one of {', '.join(self.words().tokens)}, or a number")

    def overlay(self, token: str | int | None = None, size: int | None = None) -> Image:
        """The photo with a map of `map_of` in colour over it; its longer side scaled to `size` pixels.

        Raises UsageError for a token that is not there, or where the explanation was made without its image.
        """
        from blip_lite.overlay import overlay

        if self.image is None:
            raise UsageError("this explanation has no image to draw on")
        return overlay(self.image, self.map_of(token), size)

    def to_dict(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "text": self.text,
            "score": self.score,
            "method": self.method,
            "layer": self.layer,
            "tokens": list(self.tokens),
        }


def _special(token: str) -> bool:
    """[ENC], [SEP] and the like; a text's own brackets are tokens by themselves."""
    return len(token) > 2 and token[0] == "[" and token[-1] == "]"


def _row(maps: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    row: NDArray[np.float32] = maps[index]
    return row


def _stacked(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    import numpy as np

    return np.stack(maps)


Results = Sequence[Caption | ErrorResult]
