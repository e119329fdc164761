"""Data sources in another form: a folder with texts beside the images, a table, tar shards. Row by row, whole or not.

Rows stay rows, in their order, with key, texts and other columns; images are copied byte for byte where they are.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from blip.io import readers, tables
from blip.io.atomic import atomic_path, writing
from blip.io.byte_sources import TarMember
from blip.io.ordered_map import batched
from blip.io.readers import TEXT_COLUMNS, Columns
from blip.io.samples import ImageRef, Sample
from blip_lite import sniff
from blip_lite.errors import BadRecord, UnreadableImage, UsageError
from blip_lite.image import EXTENSIONS

SHARD_SIZE = 1000
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_PARQUET_ROWS = 256  # of a group: one group of images is in memory when they are read
_NAMED_LISTS = ("answers",)  # besides captions: the columns that csv can hold as lists and give back
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "WebP": ".webp",
    "AVIF": ".avif",
    "HEIC": ".heic",
    "JPEG 2000": ".jp2",
}
OnBad = Callable[[BadRecord], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What was written: rows, the files or the folder, the columns that a folder has no place for."""

    rows: int
    skipped: int
    paths: tuple[Path, ...]
    dropped: tuple[str, ...] = ()


def convert(
    names: Sequence[str],
    columns: Columns,
    target: Path,
    *,
    shard_size: int = SHARD_SIZE,
    on_bad: OnBad | None = None,
) -> Converted:
    """Writes files and folders of a source as `target` says: .tar (`NAME-000000.tar` and so on), a table, a folder.

    A table names images by path, relative where they lie below its folder; images that lie in shards go into a
    folder NAME-images beside it, in Parquet into the table. A folder holds images and texts alone, and rows of one
    image become one. Other columns called like the image's or a text's become `other_NAME`. A bad row raises
    `BadRecord`, or is left out and given to `on_bad`. Nothing is overwritten; nothing is left of what failed.
    """
    source = _Source(names, columns, on_bad)
    suffix = target.suffix.lower()
    if suffix == ".tar":
        return _to_shards(source, target, shard_size)
    if suffix == ".parquet":
        return _to_parquet(source, target)
    if suffix in TABLES:
        return _to_table(source, target, suffix)
    if suffix:
        raise UsageError(f"{target}: must be a folder, .tar or one of {' '.join(TABLES)}")
    return _to_folder(source, target)


class _Source:
    """The good rows of a source, as often as wanted; bad ones are told once."""

    def __init__(self, names: Sequence[str], columns: Columns, on_bad: OnBad | None) -> None:
        self._names, self._columns, self._on_bad = names, columns, on_bad
        self._told: set[str] = set()
        self.rows = 0

    @property
    def skipped(self) -> int:
        return len(self._told)

    def __iter__(self) -> Iterator[tuple[int, Sample]]:
        """Rows with a running number."""
        self.rows = number = 0
        for name in self._names:
            for found in readers.read(name, self._columns):
                if isinstance(found, BadRecord):
                    self.skip(found)
                else:
                    self.rows += 1
                    yield number, found
                    number += 1
        if not number:
            raise UsageError(f"{', '.join(self._names[:3])}: holds no samples")

    def skip(self, error: BadRecord, *, counted: bool = False) -> None:
        """A row that is left out; `counted` where it was given out as good."""
        self.rows -= counted
        if self._on_bad is None:
            raise error
        if error.where not in self._told:
            self._told.add(error.where)
            self._on_bad(error)

    def key_of(self, record: Sample) -> str | None:
        """The key that a row names itself, else the image's path; None where all there is is the row's number."""
        own = record.fields.get("key") if self._columns.key is None else None
        if own is not None:
            return str(own)
        return None if record.key == record.where and re.search(r":\d+$", record.where) else record.key


def _fields(record: Sample) -> dict[str, Any]:
    """The other columns, none of which may be taken for the image or the text when the result is read."""
    taken = ("image", "images", *TEXT_COLUMNS)
    pair = record.fields.get("images")
    written = ("key", "images") if isinstance(pair, list) and len(pair) == len(record.images) else ("key",)
    return {f"other_{k}" if k in taken else k: v for k, v in record.fields.items() if k not in written}


def _to_shards(source: _Source, target: Path, shard_size: int) -> Converted:
    if found := sorted(target.parent.glob(f"{target.stem}-[0-9]*.tar")):
        raise UsageError(f"{found[0]} exists; remove it or choose another name")
    with _staged(target.with_suffix("")) as folder:
        for shard, batch in enumerate(batched(source, shard_size)):
            with tarfile.open(folder / f"{target.stem}-{shard:06d}.tar", "w") as tar:
                for number, record in batch:
                    _add(tar, f"{number:09d}", record, source)
        paths = [target.parent / path.name for path in sorted(folder.iterdir())]
        for path in paths:
            os.replace(folder / path.name, path)
    return Converted(rows=source.rows, skipped=source.skipped, paths=tuple(paths))


def _add(tar: tarfile.TarFile, stem: str, record: Sample, source: _Source) -> None:
    """A sample: `STEM.jpg` and `STEM.json` with key, captions and the other columns."""
    try:
        data = _bytes(_only(record), record.where)
        name = stem + _extension(record.image, data, record.where)
        text = _json(_named(source.key_of(record)) | _captions(record) | _fields(record), record.where)
    except BadRecord as error:
        source.skip(error, counted=True)
        return
    for member, content in ((name, data), (f"{stem}.json", text.encode("utf-8", "replace"))):
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _to_table(source: _Source, target: Path, suffix: str) -> Converted:
    _must_be_new(target)
    images = target.with_name(f"{target.stem}-images")
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(target))
        folder = stack.enter_context(_staged(images))
        rows = _Rows(source, target, folder, suffix)
        if suffix in (".csv", ".tsv"):
            tables.write_table(temporary, rows, "row", "\t" if suffix == ".tsv" else ",")
        else:
            _write_json(temporary, rows, suffix == ".json")
        extracted = any(folder.iterdir())
        if extracted:
            os.replace(folder, images)
    return Converted(rows=source.rows, skipped=source.skipped, paths=(target, *((images,) if extracted else ())))


class _Rows(Iterable[dict[str, Any]]):
    """A source as rows of a table, as often as wanted; images from shards are written into `folder`."""

    def __init__(self, source: _Source, target: Path, folder: Path, suffix: str) -> None:
        self._source, self._target, self._folder, self._suffix = source, target, folder, suffix

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, record in self._source:
            try:
                row = self._row(record, number)
            except BadRecord as error:
                self._source.skip(error, counted=True)
            else:
                yield row

    def _row(self, record: Sample, number: int) -> dict[str, Any]:
        fields = _fields(record)
        if self._suffix in (".csv", ".tsv"):
            _only(record)
            _must_be_flat(fields, record.where)
        images = [self._image(ref, f"{number:09d}", i, record.where) for i, ref in enumerate(record.images)]
        key = self._source.key_of(record)
        row = _named(None if key == images[0] else key)
        row |= {"images": images} if len(images) > 1 else {"image": images[0]}
        if self._suffix == ".json" and record.texts:  # the original's lists
            return row | {"caption": record.texts[0] if len(record.texts) == 1 else list(record.texts)} | fields
        return row | _captions(record) | fields

    def _image(self, ref: ImageRef, name: str, i: int, where: str) -> str:
        if ref.path is not None:
            return _relative(ref.path, self._target)
        data = _bytes(ref, where)
        file = f"{name}{f'-{i}' if i else ''}{_extension(ref, data, where)}"
        with writing(self._folder / file):
            (self._folder / file).write_bytes(data)
        return f"{self._target.stem}-images/{file}"


def _named(key: str | None) -> dict[str, Any]:
    return {} if key is None else {"key": key}


def _captions(record: Sample) -> dict[str, Any]:
    return {"captions": list(record.texts)} if record.texts else {}


def _write_json(path: Path, rows: Iterable[dict[str, Any]], as_list: bool) -> None:
    with open(path, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        for i, row in enumerate(rows):
            if as_list:
                file.write(",\n" if i else "[\n")
            file.write(_json(row, f"row {i + 1}") + ("" if as_list else "\n"))
        file.write("\n]\n" if as_list else "")


def _to_parquet(source: _Source, target: Path) -> Converted:
    """Types are taken from all rows before the first is written, so the source is gone through twice."""
    _must_be_new(target)
    tables.check("parquet")
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    with atomic_path(target) as temporary:
        try:
            schema, inside = _parquet_schema(pyarrow, source, target)
            with parquet.ParquetWriter(temporary, schema) as writer:
                for batch in batched(_parquet_rows(source, target, inside), _PARQUET_ROWS):
                    writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
        except pyarrow.ArrowException as error:
            raise UsageError(f"{target}: a column holds values of different kinds ({error}); write .jsonl") from error
    return Converted(rows=source.rows, skipped=source.skipped, paths=(target,))


def _parquet_schema(pyarrow: Any, source: _Source, target: Path) -> tuple[Any, bool]:
    """Columns with types, and whether images lie in shards, so that all are taken into the table."""
    found, inside = [], False
    for batch in batched(_parquet_rows(source, target, None), 1 << 11):
        inside = inside or any(row.pop("image") is None for row in batch)
        for row in batch:
            row.pop("image", None)
        names = dict.fromkeys(name for row in batch for name in row)
        found.append(pyarrow.schema([(name, _type(pyarrow, name, batch)) for name in names]))
    schema = pyarrow.unify_schemas(found, promote_options="permissive")
    image = pyarrow.field("image", pyarrow.binary() if inside else pyarrow.string())
    return schema.insert(1 if "key" in schema.names else 0, image), inside


def _type(pyarrow: Any, name: str, rows: Sequence[dict[str, Any]]) -> Any:
    try:
        return pyarrow.array([row.get(name) for row in rows]).type
    except pyarrow.ArrowException as error:
        raise UsageError(f"column '{name}' holds values of different kinds ({error}); write .jsonl") from error


def _parquet_rows(source: _Source, target: Path, inside: bool | None) -> Iterator[dict[str, Any]]:
    """Rows with the image's path or its bytes; with `inside` None only None in place of what has no path."""
    for _, record in source:
        try:
            ref = _only(record)
            path = None if ref.path is None else _relative(ref.path, target)
            row = _named(source.key_of(record)) | {"image": _bytes(ref, record.where) if inside else path}
            row |= _captions(record)
            row |= {name: None if value == {} else value for name, value in _fields(record).items()}
        except BadRecord as error:
            source.skip(error, counted=True)
        else:
            yield row


def _to_folder(source: _Source, target: Path) -> Converted:
    _must_be_new(target)
    dropped: dict[str, None] = {}
    with _staged(target) as folder:
        for _, record in source:
            try:
                data = _bytes(_only(record), record.where)
                extension = _extension(record.image, data, record.where)
                name = _file_name(source.key_of(record) or Path(record.where).name)
                _place(folder, name, extension, data, record.texts)
                dropped |= dict.fromkeys(_fields(record))
            except BadRecord as error:
                source.skip(error, counted=True)
        os.replace(folder, target)
    return Converted(rows=source.rows, skipped=source.skipped, paths=(target,), dropped=tuple(dropped))


def _place(folder: Path, stem: str, extension: str, data: bytes, texts: Sequence[str]) -> None:
    """`STEM.jpg` and `STEM.txt`; texts join those of the same image, another image gets `STEM-2`."""
    copy, path = 1, folder / f"{stem}{extension}"
    while (beside := path.with_name(_stem(path) + ".txt")).exists() and not _holds(path, data):
        copy += 1
        path = folder / f"{stem}-{copy}{extension}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with open(beside, "a", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(" ".join(text.splitlines()) + "\n" for text in texts)


def _stem(path: Path) -> str:
    return os.path.splitext(path.name)[0]


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _file_name(key: str) -> str:
    """A key as a path below a folder, without extension: no step up, nothing hidden, no odd characters."""
    stem = key[: -len(ending)] if (ending := os.path.splitext(key)[1].lower()) in EXTENSIONS else key
    parts = [re.sub(r'[\0-\x1f:*?"<>|\\]', "_", part).lstrip(".") for part in PurePosixPath(stem).parts]
    return "/".join(part for part in parts if part.strip("/")) or "image"


def _only(record: Sample) -> ImageRef:
    if len(record.images) > 1:
        raise BadRecord(record.where, "two images in a row; such rows can be written as .json or .jsonl alone")
    return record.image


def _bytes(ref: ImageRef, where: str) -> bytes:
    try:
        return ref.read_bytes()
    except UnreadableImage as error:
        raise BadRecord(where, str(error)) from error


def _extension(ref: ImageRef, data: bytes, where: str) -> str:
    """By the image's name, else by its first bytes."""
    name = ref.source.name if isinstance(ref.source, Path | TarMember) else ""
    ending = os.path.splitext(name)[1].lower()
    if ending in EXTENSIONS:
        return ending
    kind = sniff.kind(data)
    if kind not in _SUFFIXES:
        raise BadRecord(where, sniff.describe(data) if data else "empty image (0 bytes)")
    return _SUFFIXES[kind]


def _relative(path: Path, target: Path) -> str:
    """The path as a table beside `target` names it: relative below that folder, else absolute."""
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(target.parent))
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)


def _must_be_flat(fields: dict[str, Any], where: str) -> None:
    for name, value in fields.items():
        if isinstance(value, list | dict) and name not in _NAMED_LISTS:
            raise BadRecord(where, f"column '{name}' holds a list, which csv does not give back; write .jsonl")


def _json(values: dict[str, Any], where: str) -> str:
    try:
        return json.dumps(values, ensure_ascii=False)
    except TypeError as error:  # Parquet has more kinds of values
        raise BadRecord(where, f"a column cannot be written as JSON ({error})") from error


def _must_be_new(target: Path) -> None:
    for path in (target, target.with_name(f"{target.stem}-images")) if target.suffix else (target,):
        if os.path.lexists(path):
            raise UsageError(f"{path} exists; remove it or choose another name")


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into, gone afterwards unless it was renamed."""
    folder = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    with writing(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
