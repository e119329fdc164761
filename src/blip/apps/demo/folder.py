"""Search over a folder: which folders may be searched, and the photos found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip.apps.demo.predictions import LabelledImages
from blip.apps.demo.uploads import thumbnail
from blip.apps.search.index import Index
from blip_lite.errors import BlipError, UsageError
from blip_lite.image import read
from blip_lite.model import Model

THUMBNAIL = 320  # pixels of the longer side


@dataclass(frozen=True)
class Folders:
    """Folders that may be searched: those inside `root`, or any that the user of this machine can read if None."""

    index: Path
    root: Path | None = None

    def allowed(self, typed: str | None) -> Path:
        """Return the folder that was typed. Raises UsageError if it does not exist or is not allowed."""
        if not typed or not typed.strip():
            raise UsageError("no folder; type the path of a folder with photos")
        name = typed.strip()
        try:
            path = Path(name).expanduser()
            path = path if self.root is None else (self.root / path).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # unknown user, a loop of links, a NUL
            raise UsageError(f"{name}: no such folder") from error
        if self.root is not None and not path.is_relative_to(self.root.resolve()):
            raise UsageError(f"{name}: is outside of the folder that this page may search")
        if not os.path.isdir(path):  # Path.is_dir raises for long names and missing permissions
            raise UsageError(f"{name}: no such folder")
        return path

    def search(
        self, model: Model, typed: str | None, query: list[Any], top: int, progress: Callable[[int, int], bool]
    ) -> LabelledImages:
        """Bring the index of the folder up to date and return thumbnails of the best photos, with score and name.

        query: texts and pictures of equal weight. progress: called with (files done, files in all).
        """
        if not query:
            raise UsageError("empty query; type some words or drop a photo")
        folder = self.allowed(typed)
        with Index.open(self.index, model=model) as index:
            index.add_dir(folder, progress=progress, workers=2)
            hits = index.search(query, top=top, under=folder)
        photos = []
        for hit in hits:
            try:
                photo = thumbnail(read(hit.path), THUMBNAIL)
            except BlipError:  # deleted or changed since it was indexed
                continue
            score = f"cosine {hit.itc:.2f}" if hit.itm is None else f"match {hit.itm:.0%}"
            photos.append((photo, f"{score} · {os.path.relpath(hit.path, folder)}"))
        return photos
