"""Tables of text: JSON, JSON Lines, CSV and TSV, which refer to images by path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blip.data.targets.images import image_extension, only_image, read_image
from blip.data.targets.paths import path_in_table, require_new
from blip.data.targets.rows import Source, captions_column, json_text, key_column, other_columns
from blip.io import table_writer
from blip.io.atomic import atomic_path, temporary_folder
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord

_CSV_LISTS = ("answers",)  # besides captions: the list columns that csv readers restore


def write_table(source: Source, target: Path, suffix: str) -> tuple[Path, ...]:
    """Write a new table in the format of `suffix`; return it and the folder of images beside it, if there is one."""
    require_new(target)
    images = target.with_name(f"{target.stem}-images")
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(target))
        folder = stack.enter_context(temporary_folder(images))
        rows = _TableRows(source, target, folder, suffix)
        if suffix in (".csv", ".tsv"):
            table_writer.write_table(temporary, rows, "row", "\t" if suffix == ".tsv" else ",")
        else:
            _write_json(temporary, rows, suffix == ".json")
        extracted = any(folder.iterdir())
        if extracted:
            os.replace(folder, images)
    return (target, images) if extracted else (target,)


class _TableRows(Iterable[dict[str, Any]]):
    """A source as rows of a table; may be iterated repeatedly. Images of shards are written into `folder`."""

    def __init__(self, source: Source, target: Path, folder: Path, suffix: str) -> None:
        self._source, self._target, self._folder, self._suffix = source, target, folder, suffix

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, sample in self._source:
            try:
                row = self._row(sample, number)
            except BadRecord as error:
                self._source.skip(error, counted=True)
            else:
                yield row

    def _row(self, sample: Sample, number: int) -> dict[str, Any]:
        others = other_columns(sample)
        if self._suffix in (".csv", ".tsv"):
            only_image(sample)
            _require_flat(others, sample.where)
        images = [self._image(ref, f"{number:09d}", i, sample.where) for i, ref in enumerate(sample.images)]
        key = self._source.key_of(sample)
        row = key_column(None if key == images[0] else key)
        row |= {"images": images} if len(images) > 1 else {"image": images[0]}
        if self._suffix == ".json" and sample.texts:  # the original's lists
            return row | {"caption": sample.texts[0] if len(sample.texts) == 1 else list(sample.texts)} | others
        return row | captions_column(sample) | others

    def _image(self, ref: ImageRef, name: str, i: int, where: str) -> str:
        if ref.path is not None:
            return path_in_table(ref.path, self._target)
        data = read_image(ref, where)
        file = f"{name}{f'-{i}' if i else ''}{image_extension(ref, data, where)}"
        (self._folder / file).write_bytes(data)
        return f"{self._target.stem}-images/{file}"


def _require_flat(columns: dict[str, Any], where: str) -> None:
    for name, value in columns.items():
        if isinstance(value, list | dict) and name not in _CSV_LISTS:
            raise BadRecord(where, f"column '{name}' holds a list, which csv readers do not restore; write .jsonl")


def _write_json(path: Path, rows: Iterable[dict[str, Any]], as_list: bool) -> None:
    with open(path, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        for i, row in enumerate(rows):
            if as_list:
                file.write(",\n" if i else "[\n")
            file.write(json_text(row, f"row {i + 1}") + ("" if as_list else "\n"))
        file.write("\n]\n" if as_list else "")
