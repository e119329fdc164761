"""Eight photos of a colour each as data of every task, and a model that has never seen them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blip.checkpoint.load import Loaded, random_tiny
from blip_lite.config import Family
from tests.train.photos import COLOURS, write_photos


def write_list(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """The photos, and a JSON list about them."""
    write_photos(folder)
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def caption_rows() -> list[dict[str, Any]]:
    return [
        {"image": f"{name}.png", "image_id": i, "caption": [f"a {name} wall", f"one wall painted {name}"]}
        for i, name in enumerate(COLOURS)
    ]


def model(family: Family) -> Loaded:
    return random_tiny(family)
