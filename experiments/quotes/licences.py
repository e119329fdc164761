"""Licence files and terms of the bundled models, from `models.toml` and `data_sets.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
USE = "Use them for research and education only."


def read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


def terms(model: str) -> list[str]:
    """One line per data set and weights that a model was made from, with their terms."""
    sources, facts = read("data_sets.toml"), read("models.toml")[model]
    return [f"{sources[name]['name']}: {sources[name]['terms']}." for name in (*facts["data"], *facts["start"])]


def licence(model: str) -> str:
    """The text of the file LICENSE beside the weights. `blip models info` shows its items."""
    facts = read("models.toml")[model]
    items = [f"- {line}" for line in terms(model)]
    split = len(facts["data"])
    return "\n".join(
        [
            "The weights in this folder are not under the licence of the code.",
            USE,
            "",
            "They were trained on data under these terms:",
            "",
            *items[:split],
            "",
            "They started from weights under these terms, which training and quantisation have changed:",
            "",
            *items[split:],
            "",
            "The text of the Apache License is in the package blip_lite: assets/LICENSE-APACHE-2.0.",
            "",
        ]
    )


def bullets(model: str) -> str:
    """The terms as a Markdown list."""
    return "\n".join(f"- {line}" for line in terms(model))
