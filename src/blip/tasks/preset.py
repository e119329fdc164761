"""What a recipe is: a task's fields and the loop's. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Values of a task and of the loop, with what it is, what it reached and what it took.

    train empty: nothing is trained, `doc` says which command measures it.
    """

    task: str
    doc: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
