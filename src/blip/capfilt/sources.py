"""The images that rows of score files refer to: members of tars, files, and images that a table contains."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from blip.engine.folder import SETTINGS, OutputFolder
from blip.io import readers
from blip.io.byte_sources import MissingSource, TarMember
from blip.io.columns import Columns, ReadResult
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BlipError, UnreadableImage

Row = Mapping[str, Any]  # of an image, with the columns of a score file


class ImageLocator:
    """Finds images without reading them. Images inside a table must be requested in the order of its rows."""

    def __init__(self, columns: Mapping[str, Columns]) -> None:
        """`columns` are those with which each table was read when it was scored."""
        self._columns = columns
        self._shard, self._row = "", 0
        self._rows: Iterator[ReadResult] = iter(())

    def __call__(self, row: Row) -> ImageRef:
        """Return the location of an image; one that is missing raises its reason when it is read."""
        if row["offset"] is not None:
            return ImageRef(TarMember(Path(row["shard"]), row["image"], row["offset"], row["size"]))
        if row["image"] is not None:
            return ImageRef(Path(row["image"]))
        try:
            return self._in_table(row["shard"], row["row"])
        except BlipError as error:
            return ImageRef(MissingSource(f"{row['shard']}:{row['row']}", str(error)))

    def _in_table(self, shard: str, row: int) -> ImageRef:
        """Return the image of a row of a table, which is read on from the row before."""
        if shard != self._shard or row <= self._row:
            self._shard, self._rows = shard, readers.read(shard, self._columns.get(shard, Columns()))
        self._row = row
        for result in self._rows:
            if re.search(rf":{row}$", result.where):
                if isinstance(result, Sample):
                    return result.image
                raise result
        raise UnreadableImage(f"{shard}:{row}", "no such row")


def columns_of_shards(folders: Iterable[OutputFolder]) -> dict[str, Columns]:
    """Return the columns with which `run` read the shards of folders; nothing for those that it did not write."""
    columns: dict[str, Columns] = {}
    for folder in folders:
        settings = folder.settings() if (folder.path / SETTINGS).exists() else {}
        roots = tuple(Path(root) for root in settings.get("roots", ()))
        columns |= dict.fromkeys(
            (unit.source for unit in folder.units()), Columns(roots=roots, **settings.get("columns", {}))
        )
    return columns


def read_unchanged(row: Row, ref: ImageRef) -> bytes:
    """Return the bytes of an image. Raises `UnreadableImage` if they cannot be read, or differ from those scored."""
    try:
        data = ref.read_bytes()
    except UnreadableImage as error:
        raise UnreadableImage(row["key"], str(error)) from error
    if row["sha256"] is not None and hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise UnreadableImage(row["key"], f"{ref.name}: has changed since it was scored")
    return data
