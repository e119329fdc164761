"""The texts of an image: generation and scores, as values. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from blip_lite.decoding import Decoding


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text of an image with its match scores; `logprob` and `tokens` of synthetic texts only."""

    kind: str
    index: int
    text: str
    itm: float
    itc: float
    logprob: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Generation of texts. A prompt of None is the captioner's own; each is used for `decoding.num_captions`."""

    decoding: Decoding
    prompts: tuple[str | None, ...] = (None,)
    seed: int = 0
