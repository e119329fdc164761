"""Samples of a folder of images, with texts in sidecars beside them or in the `metadata` table of an imagefolder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from blip.io import image_cells, table_reader
from blip.io.columns import TEXT_COLUMNS, Columns, ReadResult
from blip.io.paths import ListOptions, image_stem, walk
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord
from blip_lite.text_files import load_json, read_text

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of Hugging Face's imagefolder
_IMG2DATASET = {"url", "key", "status", "error_message"}
SIDECARS = (".txt", ".caption")  # the first that exists is read


def folder(
    path: Path, columns: Columns, options: ListOptions | None = None, *, sidecars: bool = True
) -> Iterator[ReadResult]:
    """Yield the images of a folder and its subfolders with the texts that belong to them.

    A folder with `metadata.jsonl`, `.csv` or `.parquet` that names its images in a column `file_name` is read row by
    row; other images have the lines of the `.txt` or `.caption` file beside them as texts, and the other columns of
    img2dataset's `.json` file. Entries that cannot be read (pipes, folders without permission) are bad rows.
    """
    options = options or ListOptions()
    skipped: list[BadRecord] = []
    names = list(walk(str(path), options, lambda name, why: skipped.append(BadRecord(name, why))))
    folders = dict.fromkeys([path, *((path / name).parent for name in names)])
    listed: set[str] = set()
    for each in folders:
        yield from _listed(path, each, columns, options, listed)
    shared = {name for name, count in Counter(_key(name) for name in names).items() if count > 1}
    for name in names:
        if os.path.normpath(name) not in listed:
            yield _with_sidecar(path, name, columns, is_shared=_key(name) in shared) if sidecars else _alone(path, name)
    yield from skipped


def _listed(top: Path, path: Path, columns: Columns, options: ListOptions, listed: set[str]) -> Iterator[ReadResult]:
    """Yield the rows of a folder's metadata table, and add its images to `listed`."""
    table = next((path / name for name in METADATA if (path / name).is_file()), None)
    if table is None:
        return
    columns = replace(columns, image="file_name") if columns.image is None else columns
    for number, row in enumerate(table_reader.rows(table, None)):
        name = columns.image_column(row.values)
        if number == 0 and row.problem is None and name is None:
            return  # a table about something else
        key = where = row.where
        try:
            if row.problem is not None:
                raise BadRecord(row.where, row.problem)
            images = image_cells.images(row.values, columns, (path,), row.where)
            relative = [os.path.relpath(ref.path, top) for ref in images if ref.path is not None]
            listed.update(map(os.path.normpath, relative))
            key = relative[0].replace(os.sep, "/") if relative else where
            if relative and not options.accepts(key):
                continue
            yield columns.sample(row.values, images, key, row.where, column=name)
        except BadRecord as error:
            yield BadRecord(error.where, error.reason, key=key)


def _key(name: str) -> str:
    return os.path.join(os.path.dirname(name), image_stem(PurePath(name)))


def _with_sidecar(top: Path, name: str, columns: Columns, *, is_shared: bool) -> ReadResult:
    """Return the sample of an image. If images share a name, sidecars keep their ending: photo.jpg.txt."""
    image = top / name
    where = str(image)
    try:
        values = _beside(image, where, is_shared=is_shared)
        if columns.need_text and not values.get("texts"):
            sidecar = (image.name if is_shared else image_stem(image)) + SIDECARS[0]
            raise BadRecord(where, f"no text in {sidecar} beside it")
        return columns.sample(values, (ImageRef(image),), name.replace(os.sep, "/"), where, column=None)
    except BadRecord as error:
        if not columns.strict:
            return _alone(top, name)
        return error


def _alone(top: Path, name: str) -> Sample:
    return Sample(key=name.replace(os.sep, "/"), images=(ImageRef(top / name),), where=str(top / name))


def _beside(image: Path, where: str, *, is_shared: bool) -> dict[str, Any]:
    for name in (image.name, image_stem(image)):
        for ending in SIDECARS:
            path = image.with_name(name + ending)
            try:
                lines = [line for line in read_text(path).splitlines() if line.strip()]
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise BadRecord(where, f"{path.name} cannot be read ({error})") from error
            if is_shared and name != image.name:
                raise BadRecord(where, f"{path.name} may belong to other images too; must be {image.name}{ending}")
            return _downloaded(image.with_name(f"{image_stem(image)}.json")) | {"texts": lines}
    return {}


def _downloaded(path: Path) -> dict[str, Any]:
    """Return the columns besides the text that img2dataset writes beside an image; none for any other file."""
    try:
        values = load_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict) or not values.keys() >= _IMG2DATASET:
        return {}
    return {name: value for name, value in values.items() if name not in TEXT_COLUMNS}
