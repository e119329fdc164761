"""Values exchanged between the web application and an engine: jobs, results and failures. All can be pickled."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from blip_lite.errors import BlipError
from blip_lite.terminal import printable

Record = dict[str, Any]
Params = tuple[tuple[str, Any], ...]  # sorted and hashable: jobs with equal parameters share a batch

CODES = {
    400: ("bad_request",),
    401: ("unauthorized",),
    404: ("not_found", "unknown_model", "no_model"),
    405: ("method_not_allowed",),
    408: ("slow_body",),
    413: ("too_large", "too_many"),
    415: ("unsupported_type",),
    422: ("bad_field", "bad_image", "bad_url"),
    429: ("busy",),
    500: ("internal",),
    503: ("not_ready", "worker_lost"),
    504: ("timeout",),
}
STATUS = {code: status for status, codes in CODES.items() for code in codes}


@dataclass(frozen=True, slots=True)
class Job:
    """One image, or one text without an image, for one model.

    key: of the records. size: (width, height) of the image as uploaded. texts: questions, texts to match, or the
    text to embed.
    """

    endpoint: str
    model: str
    key: str
    image: Image.Image | None
    size: tuple[int, int] = (0, 0)
    texts: tuple[str, ...] = ()
    params: Params = ()


@dataclass(frozen=True, slots=True)
class JobResult:
    """Records of a job, or code and message of a problem. batch: size of the batch, on its first job only."""

    records: tuple[Record, ...] = ()
    problem: tuple[str, str] | None = None
    batch: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model; `image_size` is the side of its input in pixels."""

    name: str
    family: str
    capabilities: tuple[str, ...]
    image_size: int
    device: str
    dtype: str


class Engine(Protocol):
    """Runs jobs. `models` is empty until the models are loaded."""

    @property
    def models(self) -> Sequence[ModelInfo]: ...

    def ready(self) -> bool:
        """Whether a worker is available."""

    def submit(self, job: Job, seconds: float) -> Awaitable[JobResult]:
        """Queue a job that expires after `seconds`. Raises Problem if the engine loses it."""


class Problem(BlipError):
    """A refused or failed request: a code for programs and one line for people.

    field: part of the request at fault, if known. retry_after: seconds.
    """

    def __init__(self, code: str, message: str, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(encodable(" ".join(message.split())))
        self.code, self.field, self.retry_after = code, field and encodable(field), retry_after

    @property
    def status(self) -> int:
        return STATUS[self.code]

    def body(self) -> Record:
        error = {"code": self.code, "message": str(self), "field": self.field}
        return {"error": {name: value for name, value in error.items() if value is not None}}

    def headers(self) -> dict[str, str]:
        headers = {"Retry-After": str(max(1, math.ceil(self.retry_after)))} if self.retry_after is not None else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def log_bug(error: BaseException) -> None:
    """Print a traceback on stderr, without the control characters that texts of requests may contain."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    print("\n".join(printable(line) for line in lines), file=sys.stderr, flush=True)


def encodable(text: str) -> str:
    """The text with lone surrogates, which JSON can express but UTF-8 cannot encode, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")
