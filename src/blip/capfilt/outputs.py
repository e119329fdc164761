"""Files of selected images with their texts: tar shards that hold the images, and tables that point to them."""

from __future__ import annotations

import io
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from blip.capfilt.record import COLUMNS
from blip.capfilt.sources import ImageLocator, Row, read_unchanged
from blip.data.targets.images import image_extension
from blip.data.targets.paths import path_in_table
from blip.io.ordered_map import ordered_map
from blip.io.records import to_json
from blip.io.samples import ImageRef
from blip.io.table_writer import require_pyarrow
from blip_lite.errors import BadRecord, UnreadableImage, UsageError

Format = Literal["tar", "json", "jsonl", "parquet"]
OnFailure = Callable[[Row, str], None]  # receives the image that is left out, and the reason
NAME = "selected"  # stem of the files
_DESCRIPTION = ("url", "sha256", "width", "height")  # columns of a score file that an image keeps
_WORKERS, _AHEAD = 4, 64  # threads that read images, and images in memory


@dataclass(frozen=True)
class Destination:
    """Folder to write in, the folder `target` that will hold the files (paths in tables are relative to it), the
    location of the images, and the function that receives the images that are left out."""

    folder: Path
    target: Path
    locate: ImageLocator
    on_failure: OnFailure


class Output(ABC):
    """Writes tables of kept images (see `kept_images`); images that are missing are left out."""

    def __init__(self, to: Destination) -> None:
        self._to = to

    @abstractmethod
    def write(self, images: Any) -> None:  # Any: pyarrow has no types
        """Write an Arrow table of images."""

    @abstractmethod
    def close(self) -> None:
        """Complete the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tars(Output):
    """Shards `selected-00000.tar` and so on: `000000000.jpg` and `000000000.json` for each image, numbered."""

    def __init__(self, to: Destination, shard_size: int) -> None:
        super().__init__(to)
        self._shard_size, self._number = shard_size, 0
        self._tar: tarfile.TarFile | None = None

    def write(self, images: Any) -> None:  # Any: pyarrow has no types
        located = ((row, self._to.locate(row)) for row in images.to_pylist())
        for row, ref, data in ordered_map(_read, located, ahead=_AHEAD, workers=_WORKERS):
            try:
                if isinstance(data, UnreadableImage):
                    raise data
                extension = image_extension(ref, data, row["key"])
            except (UnreadableImage, BadRecord) as error:
                self._to.on_failure(row, str(error).removeprefix(f"{row['key']}: "))
                continue
            stem = f"{self._number:09d}"
            self._add(f"{stem}{extension}", data)
            self._add(f"{stem}.json", to_json(described(row)).encode())
            self._number += 1

    def _add(self, name: str, data: bytes) -> None:
        shard, place = divmod(self._number, self._shard_size)
        if not place and not name.endswith(".json"):
            self.close()
            self._tar = tarfile.open(self._to.folder / f"{NAME}-{shard:05d}.tar", "w")  # noqa: SIM115 - closed by close()
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined] # would otherwise keep every member

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()


class Table(Output):
    """A table whose column `image` is the path of a file; of a tar's member, `TAR/MEMBER` with `offset` and `size`."""

    def __init__(self, to: Destination) -> None:
        super().__init__(to)
        self._exists: dict[str, bool] = {}  # of tars
        self._folders: dict[str, str] = {}

    def located(self, images: Any) -> Any:  # Any: pyarrow has no types
        """Return the images that exist, as an Arrow table whose column `image` is relative to the target."""
        arrow = require_pyarrow()
        names = images.column_names
        columns = [images.column(name).to_pylist() for name in ("key", "shard", "image", "offset", "kinds")]
        paths = [self._path(*row) for row in zip(*columns, strict=True)]
        keep = arrow.array([path is not None for path in paths])
        images = images.set_column(names.index("image"), "image", arrow.array(paths, arrow.string()))
        return images.filter(keep)

    def _path(self, key: str, shard: str, image: str | None, offset: int | None, kinds: Sequence[str]) -> str | None:
        """Return the path of an image in the table, None if it is missing, which is reported."""
        if image is None:
            raise UsageError(f"{shard}: contains its images, to which a table cannot point; choose --format tar")
        if offset is None:
            if os.path.exists(image):
                return self._relative(image)
            missing = image
        else:
            if shard not in self._exists:
                self._exists[shard] = os.path.exists(shard)
            if self._exists[shard]:
                return f"{self._relative(shard)}/{image}"
            missing = shard
        self._to.on_failure({"key": key, "kinds": kinds}, f"{missing}: no such file")
        return None

    def _relative(self, path: str) -> str:
        """Return a path as the table refers to it; the folders are looked up once."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = path_in_table(Path(folder), self._to.target / NAME)
        return os.path.normpath(os.path.join(self._folders[folder], name))


class JsonLines(Table):
    """One object per line: an image with its texts. A JSON list has one object per text, like the original's."""

    def __init__(self, to: Destination, *, as_list: bool) -> None:
        super().__init__(to)
        self._as_list, self._any = as_list, False
        path = self._to.folder / f"{NAME}.{'json' if as_list else 'jsonl'}"
        self._file = open(path, "w", encoding="utf-8", errors="replace", newline="\n")  # noqa: SIM115 - closed by close()

    def write(self, images: Any) -> None:  # Any: pyarrow has no types
        for row in self.located(images).to_pylist():
            for item in _pairs(row) if self._as_list else [_pointer(row) | described(row)]:
                start = ("," if self._any else "[") + "\n" if self._as_list else ""
                self._file.write(start + to_json(item) + ("" if self._as_list else "\n"))
                self._any = True

    def close(self) -> None:
        if self._as_list:
            self._file.write("\n]\n" if self._any else "[]\n")
        self._file.close()


class Parquet(Table):
    """One row per image, with the columns of JSON Lines."""

    def __init__(self, to: Destination) -> None:
        super().__init__(to)
        self._writer: Any = None

    def write(self, images: Any) -> None:  # Any: pyarrow has no types
        images = self.located(images).drop_columns(["shard", "row"])
        front = ["image", "offset", "size", "key", "captions", "kinds", "scores"]
        images = images.select([*front, *(name for name in images.column_names if name not in front)])
        if self._writer is None:
            parquet = require_pyarrow().parquet
            self._writer = parquet.ParquetWriter(self._to.folder / f"{NAME}.parquet", images.schema, compression="zstd")
        self._writer.write_table(images)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def open_output(format: Format, to: Destination, shard_size: int) -> Output:
    """Return the output of a format."""
    if format == "tar":
        return Tars(to, shard_size)
    return Parquet(to) if format == "parquet" else JsonLines(to, as_list=format == "json")


def described(row: Row) -> dict[str, Any]:
    """Return what is stored beside an image: key, texts, their kinds and scores, description, copied columns."""
    names = ("key", "captions", "kinds", "scores", *_DESCRIPTION)
    return {name: row[name] for name in (*names, *(name for name in row if name not in COLUMNS and name not in names))}


def _pointer(row: Row) -> dict[str, Any]:
    """Return the location of an image in a table."""
    return {"image": row["image"], "offset": row["offset"], "size": row["size"]}


def _pairs(row: Row) -> list[dict[str, Any]]:
    """Return the rows of an image in the original's lists, one per text."""
    return [_pointer(row) | {"caption": text} for text in row["captions"]]


def _read(located: tuple[Row, ImageRef]) -> tuple[Row, ImageRef, bytes | UnreadableImage]:
    """Read an image in a thread; its error is a value, so that the others are not lost."""
    row, ref = located
    try:
        return row, ref, read_unchanged(row, ref)
    except UnreadableImage as error:
        return row, ref, error
