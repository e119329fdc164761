"""API keys: a file with one a line, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path

from blip.apps.serve.problems import Problem
from blip_lite.errors import UsageError

SHORTEST = 16


def read_keys(path: Path) -> tuple[bytes, ...]:
    """SHA-256 of each key of a file; empty lines and those that start with # are left out."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file {path}; cannot be read ({getattr(error, 'strerror', error)})") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or any(len(key) < SHORTEST for key in keys):
        raise UsageError(f"--api-key-file {path}; must hold at least one key, of at least {SHORTEST} characters each")
    return tuple(dict.fromkeys(_digest(key.encode("utf-8")) for key in keys))


def check(headers: Mapping[str, str], digests: Sequence[bytes]) -> None:
    """Raises Problem 401 unless a header holds one of the keys. Every key is compared, found or not."""
    if not digests:
        return
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    digest = _digest(given.encode("latin-1", "replace"))  # the bytes that came
    if not given or not any([hmac.compare_digest(digest, known) for known in digests]):
        raise Problem("unauthorized", "an API key is needed: header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
