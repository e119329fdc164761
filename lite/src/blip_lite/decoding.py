"""Decoding settings: greedy search, beam search and nucleus sampling.

Semantics are those of the original (`generate` of transformers 4.15). Lengths count all ids: prompt, start and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from blip_lite.checks import check, check_bool, check_float, check_int, is_number

MIN_LENGTH = 5  # original: of captions
MAX_BEAMS = 1000  # beams, or texts sampled per image: each needs memory
Banned = tuple[tuple[int, ...], ...]  # sequences of ids


@dataclass(frozen=True, kw_only=True)
class _Constraints:
    """Settings of every decoding."""

    max_length: int = 20
    min_length: int = MIN_LENGTH
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0  # no n-gram of this size twice; 0 = off
    banned: Banned = ()

    def __post_init__(self) -> None:
        check_int("min_length", self.min_length, 0)
        check_int("max_length", self.max_length, 1)
        allowed = f"at most max_length ({self.max_length})"
        check("min_length", self.min_length, self.min_length <= self.max_length, allowed)
        check_float("repetition_penalty", self.repetition_penalty, above=0)
        check_int("no_repeat_ngram", self.no_repeat_ngram, 0)
        check("banned", self.banned, all(self.banned), "sequences of at least one id")


@dataclass(frozen=True, kw_only=True)
class Greedy(_Constraints):
    """The most probable token at each step."""

    @property
    def num_captions(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class Nucleus(_Constraints):
    """Sampling from the `top_k` most probable tokens, limited to the smallest set whose probabilities reach `top_p`."""

    top_p: float = 0.9
    top_k: int = 50  # the original's silent default; 0 = off
    temperature: float = 1.0
    repetition_penalty: float = 1.1  # fixed in the original
    num_captions: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check("top_p", self.top_p, is_number(self.top_p) and 0 <= self.top_p <= 1, "from 0 to 1")
        check_int("top_k", self.top_k, 0)
        check_float("temperature", self.temperature, above=0)
        check_int("num_captions", self.num_captions, 1, MAX_BEAMS)


@dataclass(frozen=True, kw_only=True)
class Beam(_Constraints):
    """Beam search.

    length_norm: "total" divides scores by the number of ids without the end, prompt included, as the original does;
    "new" by the number of new ids with the end, as newer libraries do.
    """

    num_beams: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = False
    length_norm: Literal["total", "new"] = "total"
    num_captions: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("num_beams", self.num_beams, 1, MAX_BEAMS)
        check_float("length_penalty", self.length_penalty)
        check_int("num_captions", self.num_captions, 1)
        allowed = f"from 1 to num_beams ({self.num_beams})"
        check("num_captions", self.num_captions, self.num_captions <= self.num_beams, allowed)


Decoding = Greedy | Nucleus | Beam


def is_noop(decoding: Decoding, length: int) -> bool:
    """Whether `process` leaves the scores of rows of this length unchanged."""
    blocks = decoding.no_repeat_ngram or decoding.banned
    return decoding.repetition_penalty == 1.0 and length >= decoding.min_length and not blocks


def blocked(rows: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """Ids per row that would repeat an n-gram or complete a banned sequence."""
    size, result = decoding.no_repeat_ngram, []
    for row in rows:
        ids = [sequence[-1] for sequence in decoding.banned if _ends_with(row, sequence[:-1])]
        if size and len(row) >= size:
            last = row[len(row) - size + 1 :]
            ids += [row[i + size - 1] for i in range(len(row) - size + 1) if row[i : i + size - 1] == last]
        result.append(ids)
    return result


def _ends_with(row: Sequence[int], ids: tuple[int, ...]) -> bool:
    return len(ids) <= len(row) and tuple(row[len(row) - len(ids) :]) == ids


class DecodingOptions(TypedDict, total=False):
    """Keyword arguments of `Model.caption` that choose a decoding."""

    beams: int
    sample: bool
    top_p: float
    top_k: int
    temperature: float
    min_length: int | None
    max_length: int
    num_captions: int
    repetition_penalty: float | None


def make_decoding(
    *,
    beams: int = 3,
    sample: bool = False,
    top_p: float = 0.9,
    top_k: int = 50,
    temperature: float = 1.0,
    min_length: int | None = None,
    max_length: int = 20,
    num_captions: int = 1,
    repetition_penalty: float | None = None,
) -> Decoding:
    """Return nucleus sampling with `sample`, greedy search with beams=1, else beam search.

    top_p, top_k, temperature: for sampling. num_captions: at least this many beams are used.
    min_length: None = 5, or `max_length` if that is less. repetition_penalty: None = 1.1 for sampling, else 1.0.
    """
    check_int("beams", beams, 1, MAX_BEAMS)
    check_int("num_captions", num_captions, 1, MAX_BEAMS)
    check_bool("sample", sample)
    decoding: Decoding
    if sample:
        decoding = Nucleus(top_p=top_p, top_k=top_k, temperature=temperature, num_captions=num_captions)
    elif beams == num_captions == 1:
        decoding = Greedy()
    else:
        decoding = Beam(num_beams=max(beams, num_captions), num_captions=num_captions)
    if min_length is None:
        check_int("max_length", max_length, 1)
        min_length = min(MIN_LENGTH, max_length)
    penalty = decoding.repetition_penalty if repetition_penalty is None else repetition_penalty
    return replace(decoding, min_length=min_length, max_length=max_length, repetition_penalty=penalty)


def to_record(decoding: Decoding) -> dict[str, Any]:
    """The settings as the `params` of a record."""
    lengths = {"min_length": decoding.min_length, "max_length": decoding.max_length}
    if isinstance(decoding, Nucleus):
        return {"top_p": decoding.top_p, "top_k": decoding.top_k, "temperature": decoding.temperature, **lengths}
    return {"beams": decoding.num_beams if isinstance(decoding, Beam) else 1, **lengths}
