"""A folder of noise photos and a very small model with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip
from blip.apps.search.index import Index

Paint = Callable[..., Path]


@pytest.fixture(scope="session")
def model() -> blip.Model:
    return blip.load_random()


@pytest.fixture
def paint(tmp_path: Path) -> Paint:
    """`paint(name, seed)` writes a photo of noise to the folder `photos`."""

    def make(name: str, seed: int) -> Path:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.RandomState(seed).randint(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
        return path

    return make


@pytest.fixture
def photos(paint: Paint, tmp_path: Path) -> Path:
    """Folder of six photos, one of them in a subfolder with a space."""
    for number in range(5):
        paint(f"{number}.png", number)
    paint("sub dir/5 ü.png", 5)
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path: Path, model: blip.Model) -> Iterator[Index]:
    with Index.open(tmp_path / "index", model=model) as opened:
        yield opened
