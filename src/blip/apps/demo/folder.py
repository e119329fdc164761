"""Search over a folder: which folders may be named, and photos found in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from blip.api import Model
from blip.apps.demo.uploads import thumbnail
from blip.apps.search.index import Index
from blip.apps.search.query import Part
from blip_lite.errors import BlipError, UsageError
from blip_lite.image import read
from blip_lite.results import Hit

THUMBNAIL = 320


@dataclass(frozen=True)
class Folders:
    """Where to look. `root`: only folders in it; None: wherever the person at this machine may read."""

    index: Path
    root: Path | None = None

    def allowed(self, typed: str | None) -> Path:
        """The folder that was typed. Raises UsageError for what is no folder, or one that may not be named."""
        if not typed or not typed.strip():
            raise UsageError("no folder; type the path of one with photos")
        name = typed.strip()
        try:
            path = Path(name).expanduser()
            path = path if self.root is None else (self.root / path).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
            raise UsageError(f"{name}: no such folder") from error
        if self.root is not None and not path.is_relative_to(self.root.resolve()):
            raise UsageError(f"{name}: is outside of the folder that this page may search")
        if not os.path.isdir(path):  # Path.is_dir raises where a name is too long or may not be looked at
            raise UsageError(f"{name}: no such folder")
        return path

    def search(
        self, model: Model, typed: str | None, query: list[Any], top: int, tick: Callable[[int, int], bool]
    ) -> list[tuple[Image.Image, str]]:
        """Thumbnails with score and name of the best photos, after the folder has been read (again).

        query: texts and pictures, of equal weight. tick: told how many files of how many are done.
        """
        if not query:
            raise UsageError("nothing to search for; write some words or drop a photo")
        folder = self.allowed(typed)
        with Index.open(self.index, model=model) as index:
            index.add_dir(folder, progress=tick, workers=2)
            hits = index.search([Part(one) for one in query], top=top, under=folder)
        return [shown for hit in hits if (shown := _shown(hit, folder)) is not None]


def _shown(hit: Hit, folder: Path) -> tuple[Image.Image, str] | None:
    try:
        picture = thumbnail(read(hit.path), THUMBNAIL)
    except BlipError:  # gone or changed since it was indexed
        return None
    score = f"cosine {hit.itc:.2f}" if hit.itm is None else f"match {hit.itm:.0%}"
    return picture, f"{score} · {os.path.relpath(hit.path, folder)}"
