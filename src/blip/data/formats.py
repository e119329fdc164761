"""Readers of the file formats that hold images with texts: tar shards, tables, JSON lists, folders with sidecars.

Each yields a `Sample` for a good row and a `BadRecord` for a bad one, in file order. Images are located, not opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from blip.io import manifests
from blip.io.byte_sources import TarMember, tar_members
from blip.io.inputs import ListOptions, is_url, walk
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord, UsageError
from blip_lite.image import EXTENSIONS

TEXT_COLUMNS = ("caption", "captions", "text", "texts")
Found = Sample | BadRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which columns to take. `text` None: the first of `TEXT_COLUMNS` that a row has; a row may then have no text.

    roots: folders that images are relative to, instead of the table's own; of several the first that has the file.
    """

    roots: tuple[Path, ...] = ()
    image: str = "image"
    text: str | None = None
    key: str | None = None
    need_text: bool = False

    def texts(self, values: Mapping[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
        """The text column's name and its texts. Raises `BadRecord`."""
        name = self.text or next((c for c in TEXT_COLUMNS if values.get(c) is not None), None)
        texts = _texts(values.get(name), name, where) if name else ()
        if not texts and (self.need_text or self.text):
            raise BadRecord(where, f"no text in column '{name}'" if name else f"no column of {', '.join(TEXT_COLUMNS)}")
        return name, texts

    def record(self, values: Mapping[str, Any], images: tuple[ImageRef, ...], key: str, where: str) -> Sample:
        """A record of a row's values. Raises `BadRecord`."""
        name, texts = self.texts(values, where)
        if self.key is not None:
            if values.get(self.key) is None:
                raise BadRecord(where, f"no key in column '{self.key}'")
            key = str(values[self.key])
        fields = {k: v for k, v in values.items() if k not in (self.image, name)}
        return Sample(key=key, images=images, texts=texts, fields=fields, where=where)


def _texts(value: Any, name: str | None, where: str) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith("[") and name in ("captions", "texts"):
        try:  # tables keep lists as JSON text
            value = json.loads(value)
        except ValueError as error:
            raise BadRecord(where, f"column '{name}' is not a JSON list ({error})") from error
    values = [value] if isinstance(value, str) else value
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise BadRecord(where, f"column '{name}' must be a text or a list of texts, not {_kind(value)}")
    return tuple(v for v in values if v.strip())


def _kind(value: Any) -> str:
    return f"{value!r:.40}" if not isinstance(value, list) else "a list with other things"


def read(name: str, columns: Columns) -> Iterator[Found]:
    """Samples of one file or folder, by what it is. Raises `UsageError` where it is nothing that can be read."""
    suffix = os.path.splitext(name)[1].lower()
    if os.path.isdir(name):
        return folder(Path(name), columns)
    if suffix == ".tar":
        return shard(Path(name), columns)
    if suffix in manifests.EXTENSIONS:
        return table(Path(name), columns)
    kinds = " ".join((".tar", *manifests.EXTENSIONS))
    problem = "not a data source" if os.path.exists(name) else "no such file"
    raise UsageError(f"{name}: {problem}; give a folder or {kinds}")


def shard(path: Path, columns: Columns) -> Iterator[Found]:
    """Samples of a WebDataset tar: neighbouring members of one name, an image with a `.json` or `.txt`."""
    sample: list[TarMember] = []
    members = tar_members(path)
    try:
        for stem, group in groupby(members, key=lambda m: os.path.splitext(m.name)[0]):
            sample = list(group)
            yield from _sample(path, stem, sample, columns)
    except UsageError as error:
        if not sample:
            raise
        yield BadRecord(str(path), f"{error}".removeprefix(f"{path}: "))


def _sample(path: Path, stem: str, members: list[TarMember], columns: Columns) -> Iterator[Found]:
    where = f"{path}/{stem}"
    images = tuple(ImageRef(m) for m in members if m.name.lower().endswith(EXTENSIONS))
    texts = [m for m in members if m.name.lower().endswith((".json", ".txt"))]
    try:
        if images:
            values: dict[str, Any] = {}
            for member in texts:
                values |= _sidecar(member, where)
            yield columns.record(values, images, f"{path.name}/{stem.removeprefix('./')}", where)
        elif texts:
            raise BadRecord(where, f"no image beside {texts[0].name}")
    except BadRecord as error:
        yield error


def _sidecar(member: TarMember, where: str) -> dict[str, Any]:
    try:
        text = member.read().decode("utf-8-sig")
        values = json.loads(text) if member.name.lower().endswith(".json") else {"texts": _lines(text)}
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, UnreadableImage
        raise BadRecord(where, f"{member.name}: {error}") from error
    if not isinstance(values, dict):
        raise BadRecord(where, f"{member.name}: not a JSON object but {type(values).__name__}")
    return values


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def table(path: Path, columns: Columns) -> Iterator[Found]:
    """Rows of .json (the original's lists), .jsonl, .csv, .tsv or .parquet; paths relative to `root`, else the file."""
    bases = columns.roots or (path.parent,)
    for row in manifests.rows(path, columns.image):
        try:
            if row.problem is not None:
                raise BadRecord(row.where, row.problem)
            images = _images(row.values, columns, bases, row.where)
            yield columns.record(row.values, images, _key(row.values, columns, row.where), row.where)
        except BadRecord as error:
            yield error


def _images(values: Mapping[str, Any], columns: Columns, bases: tuple[Path, ...], where: str) -> tuple[ImageRef, ...]:
    name = columns.image if values.get(columns.image) is not None else "images"  # NLVR2 lists two
    value = _listed(values.get(name))
    found: list[ImageRef] = []
    for one in value if isinstance(value, list) and value else [value]:
        if isinstance(one, manifests.ParquetCell):
            found.append(ImageRef(one))
        elif not isinstance(one, str) or not one:
            have = ", ".join(values) or "none"
            raise BadRecord(where, f"no image path in column '{columns.image}'; columns are {have}")
        elif is_url(one):
            raise BadRecord(where, f"image '{one}' is a URL; download it first")
        else:
            found.append(ImageRef(_located(one, bases)))
    return tuple(found)


def _listed(value: Any) -> Any:
    """A list that a table keeps as JSON text, else the value itself."""
    if not (isinstance(value, str) and value.startswith("[")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _located(name: str, bases: tuple[Path, ...]) -> Path:
    first = bases[0] / name
    return first if len(bases) == 1 else next((base / name for base in bases if (base / name).exists()), first)


def _key(values: Mapping[str, Any], columns: Columns, where: str) -> str:
    value = values.get("key") or values.get(columns.image)
    if isinstance(value, str | int):
        return str(value)
    return where


def folder(path: Path, columns: Columns) -> Iterator[Found]:
    """Images of a folder and those below it, each with a `.txt` beside it: one text a line."""
    for relative in walk(str(path), ListOptions()):
        image = path / relative
        where = str(image)
        try:
            values = _beside(image.with_suffix(".txt"), where)
            if columns.need_text and not values.get("texts"):
                raise BadRecord(where, f"no text in {image.with_suffix('.txt').name} beside it")
            yield columns.record(values, (ImageRef(image),), relative.replace(os.sep, "/"), where)
        except BadRecord as error:
            yield error


def _beside(path: Path, where: str) -> dict[str, Any]:
    try:
        return {"texts": _lines(path.read_text("utf-8-sig"))}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecord(where, f"{path.name} cannot be read ({error})") from error
