"""Noisy captions as on the web: a stated share of human captions made wrong or useless in five ways, each recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

SWAPPED, TRUNCATED, ALT_TEXT, GENERIC, SIMILAR = KINDS = ("swapped", "truncated", "alt text", "generic", "similar")
TRUE = "true"  # kind of an unchanged caption
GENERIC_TEXTS = (
    "a nice photo",
    "photo of the day",
    "my favourite picture",
    "summer holidays",
    "what a great day",
    "having fun with friends",
    "click to enlarge",
    "from our last trip",
    "thanks for all the comments",
    "one of many from this weekend",
    "a moment to remember",
    "more pictures on our blog",
)
STOP_WORDS = frozenset(  # not used in the names of files
    re.findall(
        r"\w+",
        "a an the is are on in of at to with and while its his her their by from as for near over up down out two one "
        "some there that this it he she they be being into onto through next front",
    )
)


@dataclass(frozen=True)
class WebCaption:
    """A caption as found on the web: its text, and the kind of its corruption (one of KINDS, or TRUE)."""

    text: str
    kind: str


def corrupt(captions: Sequence[str], neighbours: Sequence[Sequence[int]], rate: float, seed: int) -> list[WebCaption]:
    """Corrupt a share `rate` of the captions, one per photo; the kinds are equally frequent.

    neighbours: for each photo the indices of the photos that look most similar.
    """
    rng = Random(seed)
    chosen = rng.sample(range(len(captions)), round(rate * len(captions)))
    kinds = {photo: KINDS[i % len(KINDS)] for i, photo in enumerate(chosen)}
    return [corrupt_one(i, captions, neighbours[i], kinds.get(i, TRUE), rng) for i in range(len(captions))]


def corrupt_one(photo: int, captions: Sequence[str], neighbours: Sequence[int], kind: str, rng: Random) -> WebCaption:
    """Return the caption of a photo with a corruption of a kind, or unchanged."""
    text = captions[photo]
    if kind == SWAPPED:
        text = _of_other(photo, captions, rng)
    elif kind == SIMILAR:
        text = _of_other(photo, captions, rng, neighbours)
    elif kind == TRUNCATED:
        text = truncate(text, rng)
    elif kind == ALT_TEXT:
        text = alt_text(text, rng)
    elif kind == GENERIC:
        text = rng.choice(GENERIC_TEXTS)
    return WebCaption(text, kind)


def _of_other(photo: int, captions: Sequence[str], rng: Random, candidates: Sequence[int] = ()) -> str:
    """Return another caption: that of a candidate if one of them has another, else that of any photo."""
    different = [captions[i] for i in candidates if captions[i] != captions[photo]]
    while not different:
        different = [text for text in [rng.choice(captions)] if text != captions[photo]]
    return rng.choice(different)


def truncate(text: str, rng: Random) -> str:
    """Return the first words of a caption: at most half of them, at least one."""
    words = text.split()
    return " ".join(words[: rng.randint(1, max(1, len(words) // 2))])


def alt_text(text: str, rng: Random) -> str:
    """Return the file name of a camera, or a file name or tag of a web page with one or two words of the caption."""
    words = [word for word in text.lower().replace(".", "").split() if word.isalpha() and word not in STOP_WORDS]
    picked = rng.sample(words, min(2, len(words))) or ["photo"]
    number = rng.randrange(1, 10_000)
    return rng.choice(
        (
            f"IMG_{number:04}.JPG",
            f"DSC{number:05}.jpg",
            f"image ({number % 100})",
            f"{'-'.join(picked)}-{number % 100:02}.jpg",
            f"{picked[0]} | stock photo {number}",
            f"{picked[-1]}_small.png",
        )
    )
