"""Recorded results of the bundled models for the example photos, for all tests; `make renew` writes them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("expected_tiny.json")


def expected() -> dict[str, Any]:
    """The recorded values: captions, answers, match scores and the first numbers of vectors, by photo."""
    values: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return values


def caption_of(photo: str) -> str:
    """The recorded caption of an example photo."""
    return str(expected()["captions"][photo])
