"""The rules of a selection: which texts and images are kept, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from blip_lite.errors import UsageError

Score = Literal["itm", "itc"]
Keep = Literal["all", "best", "best-per-kind"]
Duplicate = Literal["url", "bytes", "near"]
_LOWEST: dict[Score, float] = {"itm": 0.0, "itc": -1.0}  # both scores are at most 1


@dataclass(frozen=True, slots=True)
class Threshold:
    """Lowest score of a text that is kept; with `is_share`, the share of the texts that is kept, the best ones."""

    value: float
    is_share: bool = False

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.is_share else f"{self.value:g}"


def parse_threshold(value: float | str, score: Score, name: str = "threshold") -> Threshold:
    """Return the threshold of a number such as 0.5, or of a share such as "30%". Raises `UsageError`."""
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if text.endswith("%") and 0 < number <= 100:
        return Threshold(number / 100, is_share=True)
    if not text.endswith("%") and _LOWEST[score] <= number <= 1:
        return Threshold(number)
    allowed = f"a number from {_LOWEST[score]:g} to 1, or a share such as 30% to keep the best 30 % of each kind"
    raise UsageError(f"{name} {value}; must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules in the order in which they apply. Human texts are exempt from all but `limit`.

    where: SQL condition on the columns of the score files. web, synthetic: thresholds of the score. Of texts of one
    image that differ only in case, spaces and punctuation, the best is kept. keep: all remaining texts of an image, the
    best one, or the best of each kind. drop_duplicates: drop images that have the URL or the bytes of a better image,
    or nearly its perceptual hash (at most 2 of 64 bits differ). max_repeats: how many images may have one text. limit:
    number of images, a random sample by `seed`, those with human texts first.
    """

    score: Score = "itm"
    where: str | None = None
    web: Threshold = Threshold(0.5)
    synthetic: Threshold = Threshold(0.5)
    keep: Keep = "all"
    drop_duplicates: tuple[Duplicate, ...] = ()
    max_repeats: int | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require("score", self.score, get_args(Score))
        _require("keep", self.keep, get_args(Keep))
        for name in self.drop_duplicates:
            _require("drop_duplicates", name, get_args(Duplicate))
        for field in ("max_repeats", "limit"):
            number = getattr(self, field)
            if number is not None and number < 1:
                raise UsageError(f"{field} {number}; must be an integer of at least 1")


def _require(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value}; must be one of {', '.join(allowed)}")
