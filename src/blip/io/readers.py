"""Readers of images with texts: WebDataset shards, tables, folders with sidecars. Every source is read by these.

Each yields a `Sample` for a good row and a `BadRecord` for a bad one, in file order. Images are located, not opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blip.io import table_reader
from blip.io.byte_sources import TarMember, tar_members
from blip.io.paths import ListOptions, is_url, walk
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord, UsageError
from blip_lite.image import EXTENSIONS
from blip_lite.text_files import decode_text, parse_json, read_text

TEXT_COLUMNS = ("caption", "captions", "text", "texts")
MAX_TEXT_BYTES = 1 << 20  # of a text member of a shard
SHARD_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # compressed ones are refused with a reason
_TEXT_ENDINGS = (".txt", ".json")
ReadResult = Sample | BadRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The columns that a reader uses. `text` None: the first of `TEXT_COLUMNS` that a row has; a row may have no text.

    roots: folders that image paths are relative to (default: the table's folder); the first that has the file counts.
    image, text: in shards also the endings of the members to use, such as `input.jpg` and `caption.txt`. With both
    given, the key is what comes before the ending, so that names may contain dots.
    strict: False leaves out texts that cannot be used instead of the row; for inference, which needs the images only.
    keep: the other columns to keep; None keeps all.
    """

    roots: tuple[Path, ...] = ()
    image: str = "image"
    text: str | None = None
    key: str | None = None
    need_text: bool = False
    strict: bool = True
    keep: tuple[str, ...] | None = None

    def sample(self, values: Mapping[str, Any], images: tuple[ImageRef, ...], key: str, where: str) -> Sample:
        """Return the sample of a row's values. Raises `BadRecord`."""
        name, texts = self._texts(values, where)
        if self.key is not None:
            if values.get(self.key) is None:
                raise BadRecord(where, f"no key in column '{self.key}'")
            key = str(values[self.key])
        names = (k for k in values if k not in (self.image, name)) if self.keep is None else self.keep
        fields = {k: values[k] for k in names if k in values}
        return Sample(key=key, images=images, texts=texts, fields=fields, where=where)

    def _texts(self, values: Mapping[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
        """Return the text column's name and its texts. Raises `BadRecord`."""
        name = self.text or next((c for c in TEXT_COLUMNS if values.get(c) is not None), None)
        try:
            texts = _parse_texts(values.get(name), name, where) if name else ()
        except BadRecord:
            if self.strict:
                raise
            return name, ()
        if not texts and self.strict and (self.need_text or self.text):
            raise BadRecord(where, f"no text in column '{name}'" if name else f"no column of {', '.join(TEXT_COLUMNS)}")
        return name, texts


def _parse_texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith("[") and name in ("captions", "texts"):
        try:  # tables store lists as JSON text
            value = parse_json(value)
        except ValueError as error:
            raise BadRecord(where, f"column '{name}' is not a JSON list ({error})") from error
    values = [value] if isinstance(value, str) else value
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        kind = f"{value!r:.40}" if not isinstance(value, list) else "a list with other values"
        raise BadRecord(where, f"column '{name}' must be a text or a list of texts, not {kind}")
    return tuple(v for v in values if v.strip())


def read(name: str, columns: Columns) -> Iterator[ReadResult]:
    """Yield the samples of one file or folder. Raises `UsageError` if it is none that can be read."""
    if os.path.isdir(name):
        return folder(Path(name), columns)
    if name.lower().endswith(SHARD_EXTENSIONS):
        return shard(Path(name), columns)
    if name.lower().endswith(table_reader.EXTENSIONS):
        return table(Path(name), columns)
    kinds = " ".join((".tar", *table_reader.EXTENSIONS))
    problem = "not a data source" if os.path.exists(name) else "no such file"
    raise UsageError(f"{name}: {problem}; must be a folder or one of {kinds}")


def _has_image_extension(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def shard(path: Path, columns: Columns, is_image: Callable[[str], bool] = _has_image_extension) -> Iterator[ReadResult]:
    """Yield the samples of a WebDataset tar: consecutive members of one key, images with `.json` or `.txt`.

    The key is everything before the first dot of the base name, the rest is the field. The fields `jpg` and `txt` are
    used rather than `seg.png` or `alt.txt`, those only if there is no other. `is_image` decides by a member's name.
    """
    reader = _ShardReader(path, columns, is_image)
    key, members = "", dict[str, TarMember]()
    any_read = False
    try:
        for member in tar_members(path):
            any_read = True
            split = reader.split(member.name)
            if split is None:
                continue
            if members and (split[0] != key or split[1] in members):
                yield from reader.samples(key, members)
                members = {}
            key = split[0]
            members[split[1]] = member
    except UsageError as error:
        if not any_read:
            raise
        if not columns.strict:
            yield from reader.samples(key, members)
        reason = str(error).removeprefix(f"{path}: ")
        yield BadRecord(str(path), f"{reason}; its last sample '{key}' may be incomplete" if members else reason)
        return
    yield from reader.samples(key, members)


class _ShardReader:
    """Splits member names into key and field, and makes a sample of the members of one key."""

    def __init__(self, path: Path, columns: Columns, is_image: Callable[[str], bool]) -> None:
        self.path, self.is_image = path, is_image
        image = f".{columns.image.lower()}"
        text = f".{(columns.text or '').lower()}"
        self.image_ending = image if image.endswith(EXTENSIONS) else None
        self.text_ending = text if text.endswith(_TEXT_ENDINGS) else None
        self.columns = columns if self.text_ending is None else replace(columns, text=None, need_text=True)

    def split(self, name: str) -> tuple[str, str] | None:
        """Return key and field of a member, or None if it belongs to no sample (hidden, `._` files of macOS)."""
        name = name.removeprefix("./")
        base = name.rpartition("/")[2]
        chosen = [ending for ending in (self.image_ending, self.text_ending) if ending is not None]
        for ending in chosen:
            if base.lower().endswith(ending) and not base.startswith("."):
                return name[: -len(ending)], ending[1:]
        stem, dot, field = base.partition(".")
        if not (stem and dot and field) or len(chosen) == 2:
            return None
        return name[: len(name) - len(base) + len(stem)], field.lower()

    def samples(self, key: str, members: Mapping[str, TarMember]) -> Iterator[ReadResult]:
        where = f"{self.path}/{key}"
        images = self._choose(members, self.image_ending, lambda member: self.is_image(member.name))
        texts = self._choose(members, self.text_ending, lambda member: member.name.lower().endswith(_TEXT_ENDINGS))
        try:
            if images:
                values = self._values(images, texts, where)
                refs = tuple(ImageRef(member) for member in images.values())
                yield self.columns.sample(values, refs, f"{self.path.name}/{key}", where)
            elif texts and self.columns.strict:
                raise BadRecord(where, f"no image beside {next(iter(texts.values())).name}")
        except BadRecord as error:
            yield error

    def _choose(
        self, members: Mapping[str, TarMember], ending: str | None, test: Callable[[TarMember], bool]
    ) -> dict[str, TarMember]:
        """Return the members of the chosen ending, else those of one-part fields, else those of longer ones."""
        if ending is not None:
            return {field: member for field, member in members.items() if f".{field}" == ending}
        fitting = {field: member for field, member in members.items() if test(member)}
        return {field: member for field, member in fitting.items() if "." not in field} or fitting

    def _values(self, images: Mapping[str, TarMember], texts: Mapping[str, TarMember], where: str) -> dict[str, Any]:
        """Return the columns that the text members hold. Raises `BadRecord`."""
        named = {field: member for field, member in texts.items() if field.split(".")[0] in TEXT_COLUMNS}
        lists = {field: member for field, member in (named or texts).items() if field.endswith("txt")}
        objects = {field: member for field, member in texts.items() if field.endswith("json")}
        values: dict[str, Any] = {}
        try:
            if len(images) > 1 and max(len(lists), len(objects)) > 1:
                raise BadRecord(
                    where,
                    f"several images ({', '.join(images)}) and texts ({', '.join(texts)}) have this key; "
                    "name the endings to use as image and text column, such as jpg and txt",
                )
            for field, member in texts.items():
                if field in lists or field in objects:
                    values |= _sidecar(member, where)
        except BadRecord:
            if self.columns.strict:
                raise
        return values


def _sidecar(member: TarMember, where: str) -> dict[str, Any]:
    """Return the columns that a `.txt` or `.json` member holds. Raises `BadRecord`."""
    if member.size > MAX_TEXT_BYTES:
        raise BadRecord(where, f"{member.name}: text of {member.size:,} bytes; at most {MAX_TEXT_BYTES:,} are read")
    try:
        text = decode_text(member.read())
        values = parse_json(text) if member.name.lower().endswith(".json") else {"texts": _lines(text)}
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, UnreadableImage
        raise BadRecord(where, f"{member.name}: {error}") from error
    if not isinstance(values, dict):
        raise BadRecord(where, f"{member.name}: not a JSON object but {type(values).__name__}")
    return values


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def table(path: Path, columns: Columns) -> Iterator[ReadResult]:
    """Yield the rows of a .json (the original's lists), .jsonl, .csv, .tsv or .parquet file."""
    roots = columns.roots or (path.parent,)
    for row in table_reader.rows(path, columns.image):
        key = _key(row.values, columns, row.where)
        try:
            if row.problem is not None:
                raise BadRecord(row.where, row.problem)
            images = _images(row.values, columns, roots, row.where)
            yield columns.sample(row.values, images, key, row.where)
        except BadRecord as error:
            yield BadRecord(error.where, error.reason, key=key)


def _images(values: Mapping[str, Any], columns: Columns, roots: Sequence[Path], where: str) -> tuple[ImageRef, ...]:
    name = columns.image if values.get(columns.image) is not None else "images"  # NLVR2 rows list two
    value = _parse_list(values.get(name))
    refs: list[ImageRef] = []
    for item in value if isinstance(value, list) and value else [value]:
        if isinstance(item, table_reader.ParquetCell):
            refs.append(ImageRef(item))
        elif not isinstance(item, str) or not item:
            present = ", ".join(values) or "none"
            raise BadRecord(where, f"no image path in column '{columns.image}'; columns are {present}")
        elif is_url(item):
            raise BadRecord(where, f"image '{item}' is a URL; download it first, URLs in tables are not fetched")
        else:
            refs.append(ImageRef(_locate(item, roots)))
    return tuple(refs)


def _parse_list(value: Any) -> Any:
    """Return the list that a table stores as JSON text, else the value itself."""
    if not (isinstance(value, str) and value.startswith("[")):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value


def _locate(name: str, roots: Sequence[Path]) -> Path:
    first = roots[0] / name
    return first if len(roots) == 1 else next((root / name for root in roots if (root / name).exists()), first)


def _key(values: Mapping[str, Any], columns: Columns, where: str) -> str:
    value = values.get("key") or values.get(columns.image)
    return str(value) if isinstance(value, str | int) else where


def folder(path: Path, columns: Columns) -> Iterator[ReadResult]:
    """Yield the images of a folder and its subfolders, each with the `.txt` beside it: one text per line."""
    for relative in walk(str(path), ListOptions()):
        image = path / relative
        where = str(image)
        try:
            values = _beside(image.with_suffix(".txt"), where)
            if columns.need_text and not values.get("texts"):
                raise BadRecord(where, f"no text in {image.with_suffix('.txt').name} beside it")
            yield columns.sample(values, (ImageRef(image),), relative.replace(os.sep, "/"), where)
        except BadRecord as error:
            yield error


def _beside(path: Path, where: str) -> dict[str, Any]:
    try:
        return {"texts": _lines(read_text(path))}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecord(where, f"{path.name} cannot be read ({error})") from error
