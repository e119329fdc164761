"""How texts are decoded: the settings of each search as values.

Semantics are those of the original's (`generate` of transformers 4.15). Lengths count all ids: prompt, start and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blip_lite.errors import ConfigError

Words = tuple[tuple[int, ...], ...]  # sequences of ids


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The likeliest token each time."""

    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0  # no n-gram of this size twice; 0 = off
    banned: Words = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_captions(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """Sampling from the `top_k` likeliest, and of these from the smallest set whose chances reach `top_p`."""

    top_p: float = 0.9
    top_k: int = 50  # the original's silent default; 0 = off
    temperature: float = 1.0
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.1  # original: fixed, whatever the caller asks for; ours: the default
    num_captions: int = 1
    no_repeat_ngram: int = 0
    banned: Words = ()

    def __post_init__(self) -> None:
        _check(self)
        _check_range("top_p", self.top_p, 0 <= self.top_p <= 1, "from 0 to 1")
        _check_range("top_k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _check_range("temperature", self.temperature, self.temperature > 0, "above 0")
        _check_range("num_captions", self.num_captions, self.num_captions >= 1, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search. `length_norm="total"` divides by all ids but the end, prompt included, as the original;
    "new" by the new ids with the end, as newer libraries.
    """

    num_beams: int = 3
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    length_norm: Literal["total", "new"] = "total"
    num_captions: int = 1
    no_repeat_ngram: int = 0
    banned: Words = ()

    def __post_init__(self) -> None:
        _check(self)
        _check_range("num_beams", self.num_beams, self.num_beams >= 1, "1 or more")
        if not 1 <= self.num_captions <= self.num_beams:
            raise ConfigError(f"num_captions {self.num_captions}: must be from 1 to num_beams ({self.num_beams})")


Decoding = Greedy | Nucleus | Beam


def _check(decoding: Decoding) -> None:
    _check_range("repetition_penalty", decoding.repetition_penalty, decoding.repetition_penalty > 0, "above 0")
    _check_range("no_repeat_ngram", decoding.no_repeat_ngram, decoding.no_repeat_ngram >= 0, "0 (off) or more")
    _check_range("banned", decoding.banned, all(decoding.banned), "sequences of at least one id")


def _check_range(name: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{name} {value}: must be {allowed}")


def is_noop(decoding: Decoding, length: int) -> bool:
    """Whether `process` leaves the scores of rows of this length as they are."""
    blocks = decoding.no_repeat_ngram or decoding.banned
    return decoding.repetition_penalty == 1.0 and length >= decoding.min_length and not blocks


def blocked(rows: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """For each row the ids that would repeat an n-gram or complete a banned sequence."""
    size, result = decoding.no_repeat_ngram, []
    for row in rows:
        found = [words[-1] for words in decoding.banned if _ends_with(row, words[:-1])]
        if size and len(row) >= size:
            last = row[len(row) - size + 1 :]
            found += [row[i + size - 1] for i in range(len(row) - size + 1) if row[i : i + size - 1] == last]
        result.append(found)
    return result


def _ends_with(row: Sequence[int], words: tuple[int, ...]) -> bool:
    return len(words) <= len(row) and tuple(row[len(row) - len(words) :]) == words


def make_decoding(
    *,
    beams: int,
    sample: bool,
    top_p: float,
    top_k: int,
    temperature: float,
    min_length: int,
    max_length: int,
    num_captions: int,
    repetition_penalty: float | None,
) -> Decoding:
    """The decoding that the arguments of `caption` describe."""
    _check_range("beams", beams, beams >= 1, "1 or more")
    penalty = repetition_penalty if repetition_penalty is not None else (1.1 if sample else 1.0)
    if sample:
        return Nucleus(
            top_p=top_p,
            top_k=top_k,
            temperature=temperature,
            min_length=min_length,
            max_length=max_length,
            num_captions=num_captions,
            repetition_penalty=penalty,
        )
    if beams == 1 and num_captions == 1:
        return Greedy(min_length=min_length, max_length=max_length, repetition_penalty=penalty)
    return Beam(
        num_beams=max(beams, num_captions),
        num_captions=num_captions,
        min_length=min_length,
        max_length=max_length,
        repetition_penalty=penalty,
    )


def described(decoding: Decoding) -> dict[str, Any]:
    """The settings as a record shows them."""
    lengths = {"min_length": decoding.min_length, "max_length": decoding.max_length}
    if isinstance(decoding, Nucleus):
        return {"top_p": decoding.top_p, "top_k": decoding.top_k, "temperature": decoding.temperature, **lengths}
    return {"beams": decoding.num_beams if isinstance(decoding, Beam) else 1, **lengths}
