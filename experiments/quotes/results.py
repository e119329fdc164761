"""Recorded results of the bundled models: `experiments/tiny/*.json` and `experiments/vqa/results.json`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MISSING = "–"
Results = Mapping[str, Any]


def load_toml(path: str) -> Results:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def load(path: str) -> Results:
    """Read a file of results below the repository."""
    results: Results = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return results


def value(results: Results, path: str) -> Any:
    """Return the value at `a/b/c`, None if there is none."""
    part: Any = results
    for name in path.split("/"):
        part = part.get(name) if isinstance(part, Mapping) else None
    return part


def shown(results: Results, form: str, *paths: str) -> str:
    """Return the values at some paths in a form like "{:.3f}, {:.1f}"; a dash if one is missing."""
    values = [value(results, path) for path in paths]
    return MISSING if None in values else form.format(*values)
