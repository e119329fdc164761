"""Why a request gets no result: a status, a code for programs, and one line for people."""

from __future__ import annotations

import math
from typing import Any

from blip_lite.errors import BlipError

CODES = {
    400: ("bad_request",),
    401: ("unauthorized",),
    404: ("not_found", "unknown_model", "no_model"),
    405: ("method_not_allowed",),
    413: ("too_large", "too_many"),
    415: ("unsupported_type",),
    422: ("bad_field", "bad_image", "bad_url"),
    429: ("busy",),
    500: ("internal",),
    503: ("not_ready", "worker_lost"),
    504: ("timeout",),
}
STATUS = {code: status for status, codes in CODES.items() for code in codes}


def sendable(text: str) -> str:
    """The text without halves of characters, which JSON can name and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Problem(BlipError):
    """A refused or failed request. `field` names the part of the request that is to blame, if one is."""

    def __init__(self, code: str, message: str, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(sendable(" ".join(message.split())))
        self.code, self.field, self.retry_after = code, field and sendable(field), retry_after

    @property
    def status(self) -> int:
        return STATUS[self.code]

    def body(self) -> dict[str, Any]:
        error = {"code": self.code, "message": str(self), "field": self.field}
        return {"error": {name: value for name, value in error.items() if value is not None}}

    def headers(self) -> dict[str, str]:
        headers = {"Retry-After": str(max(1, math.ceil(self.retry_after)))} if self.retry_after is not None else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
