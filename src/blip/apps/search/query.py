"""What is searched for: texts and photos, each with a weight. `dog - people + 2:./beach.jpg` as in rclip."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from blip.io.byte_sources import Url
from blip.io.inputs import Input, is_url
from blip_lite.errors import UsageError

_WEIGHTED = re.compile(r"(\d+(?:\.\d*)?|\.\d+):(.+)", re.DOTALL)
_HEAVIEST = 1e6  # a weight; more is a slip, and soon more than a float32 holds
_PHOTO = ("./", "../", "/", "~/", "file://")


@dataclass(frozen=True)
class Part:
    """One of the things searched for: a text (a `str`), or a photo (an `Input`, or what a model takes as an image)."""

    value: Any
    weight: float = 1.0

    @property
    def text(self) -> str | None:
        return self.value if isinstance(self.value, str) else None


def parse(words: Sequence[str], *, offline: bool = False, url_timeout: float = 20.0) -> list[Part]:
    """The parts of a query as typed. `+` or `-` alone is the sign of the next part; words in a row are one text.

    `2:` before a part is its weight; `./a.jpg`, other paths with a folder and URLs are photos. Raises UsageError.
    """
    parts: list[tuple[float, list[str]]] = []
    sign: float | None = None
    for word in words:
        if word in ("+", "-"):
            if sign is not None:
                raise UsageError(f"'{word}' follows another sign; must be followed by a text or a photo")
            sign = -1.0 if word == "-" else 1.0
            continue
        weight, value = _weighted(word)
        goes_on = sign is None and weight is None and parts
        if goes_on and not is_photo(value) and not is_photo(parts[-1][1][0]):
            parts[-1][1].append(value)
        else:
            parts.append(((1.0 if sign is None else sign) * (1.0 if weight is None else weight), [value]))
        sign = None
    if not parts or sign is not None:
        problem = "is empty" if sign is None else "ends with a sign"
        raise UsageError(f"query {problem}; give a text, ./photo.jpg or a URL")
    return [Part(_value(" ".join(value), offline, url_timeout), weight) for weight, value in parts]


def is_photo(text: str) -> bool:
    return text.startswith(_PHOTO) or is_url(text)


def _path(text: str) -> Path:
    return Path(unquote(text[len("file://") :]) if text.startswith("file://") else os.path.expanduser(text))


def _weighted(word: str) -> tuple[float | None, str]:
    match = _WEIGHTED.fullmatch(word)
    if match is None:
        return None, word
    if float(match[1]) > _HEAVIEST:
        raise UsageError(f"weight {match[1][:20]} of '{match[2][:40]}'; must be at most {_HEAVIEST:,.0f}")
    return float(match[1]), match[2].strip()


def _value(text: str, offline: bool, timeout: float) -> str | Input:
    if is_url(text):
        return Input(key=text, source=Url(text, timeout=timeout, offline=offline))
    if is_photo(text):
        return Input(key=text, source=_path(text))
    if not text.strip():
        raise UsageError("query is empty; give a text, ./photo.jpg or a URL")
    return text
