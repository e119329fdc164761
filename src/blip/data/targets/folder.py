"""A folder of images with their texts beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from blip.data.targets.images import image_extension, only_image, read_image
from blip.data.targets.paths import require_new
from blip.data.targets.rows import Source, other_columns
from blip.io.atomic import temporary_folder
from blip.io.paths import safe_path
from blip_lite.errors import BadRecord
from blip_lite.image import EXTENSIONS


def write_folder(source: Source, target: Path) -> tuple[str, ...]:
    """Write a new folder; return the names of the columns that it cannot hold."""
    require_new(target)
    dropped: dict[str, None] = {}
    with temporary_folder(target) as folder:
        for _, sample in source:
            try:
                data = read_image(only_image(sample), sample.where)
                extension = image_extension(sample.image, data, sample.where)
                name = _file_stem(source.key_of(sample) or Path(sample.where).name)
                _add_to_folder(folder, name, extension, data, sample.texts)
                dropped |= dict.fromkeys(other_columns(sample))
            except BadRecord as error:
                source.skip(error, counted=True)
        os.replace(folder, target)
    return tuple(dropped)


def _add_to_folder(folder: Path, stem: str, extension: str, data: bytes, texts: Sequence[str]) -> None:
    """Write `STEM.jpg` and `STEM.txt`; texts are added to those of an equal image, another image gets `STEM-2`."""
    copy, path = 1, folder / f"{stem}{extension}"
    while (beside := path.with_suffix(".txt")).exists() and not _holds(path, data):
        copy += 1
        path = folder / f"{stem}-{copy}{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with open(beside, "a", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(" ".join(text.splitlines()) + "\n" for text in texts)


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _file_stem(key: str) -> str:
    """Return a key as a path inside a folder, without the image's extension or hidden names."""
    stem = key[: -len(ending)] if (ending := os.path.splitext(key)[1].lower()) in EXTENSIONS else key
    return safe_path(stem, hidden=False).as_posix()
