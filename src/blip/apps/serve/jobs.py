"""What the web application and a model's process tell each other: plain values that can be pickled."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

Params = tuple[tuple[str, Any], ...]  # sorted and hashable: jobs with equal ones go into one batch


@dataclass(frozen=True, slots=True)
class Picture:
    """An RGB picture as bytes, `size` as sent and `original` as uploaded: (width, height) in pixels."""

    pixels: bytes
    size: tuple[int, int]
    original: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image, original: tuple[int, int]) -> Picture:
        return cls(image.tobytes(), image.size, original)

    def image(self) -> Image.Image:
        return Image.frombytes("RGB", self.size, self.pixels)


@dataclass(frozen=True, slots=True)
class Job:
    """One image (or one text) for one model. `texts`: questions, texts to match, or the text to embed."""

    verb: str
    model: str
    key: str
    picture: Picture | None
    texts: tuple[str, ...] = ()
    params: Params = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Records of a job, or the code and message of a problem. `batch`: jobs done together, told once a batch."""

    records: tuple[dict[str, Any], ...] = ()
    problem: tuple[str, str] | None = None
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """What a served model is and can do; `image_size` is the side in pixels that it looks at."""

    name: str
    kind: str
    capabilities: tuple[str, ...]
    image_size: int
    device: str
    dtype: str


class Engine(Protocol):
    """Where jobs are done. `cards` is empty until the models are loaded."""

    @property
    def cards(self) -> Sequence[Card]: ...

    def ready(self) -> bool:
        """Whether a job would be worked on now."""

    def submit(self, job: Job, seconds: float) -> Awaitable[Outcome]:
        """Queues a job that is worth nothing after `seconds`. Raises Problem when the engine loses it."""
