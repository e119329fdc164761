"""Conversion of data sources: to a folder with text files, a table, or tar shards, row by row.

Rows keep their order, key, texts and other columns; images are copied byte for byte or referenced. Targets appear
complete or not at all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip.io import readers, table_writer
from blip.io.atomic import atomic_path, temporary_folder
from blip.io.byte_sources import TarMember
from blip.io.columns import TEXT_COLUMNS, Columns
from blip.io.lock import exclusive
from blip.io.ordered_map import batched
from blip.io.paths import safe_path
from blip.io.samples import ImageRef, Sample
from blip_lite import sniff
from blip_lite.errors import BadRecord, UnreadableImage, UsageError
from blip_lite.image import EXTENSIONS

SHARD_SIZE = 1000
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_PARQUET_IMAGES = 256  # rows per group of a table that contains the images
_CSV_LISTS = ("answers",)  # besides captions: the list columns that csv readers restore
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
    """Result: number of rows, files or folder written, columns that a folder cannot hold."""

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
    """Write a source as files in the form of `target`: .tar (`NAME-000000.tar` and so on), a table, a folder.

    A table refers to images by path, relative if they are below its folder; images of shards are written to a folder
    NAME-images beside it, in Parquet into the table. A folder holds images and texts only, and rows of one image are
    merged. Other columns named like an image or text column become `other_NAME`. A bad row raises `BadRecord`, or is
    left out and passed to `on_bad`. Existing files are never overwritten, and a failure leaves no file.
    """
    source = _Source(names, columns, on_bad)
    suffix = target.suffix.lower()
    if str(target) == "-" or suffix not in ("", ".tar", *TABLES):
        raise UsageError(f"{target}: must be a folder, .tar or one of {' '.join(TABLES)}")
    with exclusive(target):
        if suffix == ".tar":
            return _to_shards(source, target, shard_size)
        if suffix == ".parquet":
            return _to_parquet(source, target)
        if suffix:
            return _to_table(source, target, suffix)
        return _to_folder(source, target)


class _Source:
    """The good rows of a source; may be iterated repeatedly. Bad rows are reported once."""

    def __init__(self, names: Sequence[str], columns: Columns, on_bad: OnBad | None) -> None:
        self._names, self._columns, self._on_bad = names, columns, on_bad
        self._reported: set[str] = set()
        self.rows = 0

    @property
    def skipped(self) -> int:
        return len(self._reported)

    def __iter__(self) -> Iterator[tuple[int, Sample]]:
        """Yield rows with a running number."""
        self.rows = number = 0
        for name in self._names:
            for result in readers.read(name, self._columns):
                if isinstance(result, BadRecord):
                    self.skip(result)
                else:
                    self.rows += 1
                    yield number, result
                    number += 1
        if not number:
            raise UsageError(f"{', '.join(self._names[:3])}: holds no samples")

    def skip(self, error: BadRecord, *, counted: bool = False) -> None:
        """Leave a row out; `counted` if it was yielded as good."""
        self.rows -= counted
        if self._on_bad is None:
            raise error
        if error.where not in self._reported:
            self._reported.add(error.where)
            self._on_bad(error)

    def key_of(self, sample: Sample) -> str | None:
        """Return the row's own key, else the image's path; None if it has only the number of the row."""
        key = sample.fields.get("key") if self._columns.key is None else None
        if key is not None:
            return str(key)
        return (
            None if sample.key == os.path.basename(sample.where) and re.search(r":\d+$", sample.where) else sample.key
        )


def _other_columns(sample: Sample) -> dict[str, Any]:
    """Return the other columns under names that readers do not use for the image or the text."""
    used = ("image", "images", *TEXT_COLUMNS)
    pair = sample.fields.get("images")
    written = ("key", "images") if isinstance(pair, list) and len(pair) == len(sample.images) else ("key",)
    return {f"other_{k}" if k in used else k: v for k, v in sample.fields.items() if k not in written}


def _to_shards(source: _Source, target: Path, shard_size: int) -> Converted:
    if existing := sorted(target.parent.glob(f"{target.stem}-[0-9]*.tar")):
        raise UsageError(f"{existing[0]} exists; remove it or choose another name")
    with temporary_folder(target.with_suffix("")) as folder:
        for shard, batch in enumerate(batched(source, shard_size)):
            with tarfile.open(folder / f"{target.stem}-{shard:06d}.tar", "w") as tar:
                for number, sample in batch:
                    _add_to_tar(tar, f"{number:09d}", sample, source)
        paths = [target.parent / path.name for path in sorted(folder.iterdir())]
        for path in paths:
            os.replace(folder / path.name, path)
    return Converted(rows=source.rows, skipped=source.skipped, paths=tuple(paths))


def _add_to_tar(tar: tarfile.TarFile, stem: str, sample: Sample, source: _Source) -> None:
    """Add `STEM.jpg` and `STEM.json` with key, captions and the other columns."""
    try:
        data = _read(_only_image(sample), sample.where)
        name = stem + _extension(sample.image, data, sample.where)
        text = _json(_key_column(source.key_of(sample)) | _captions(sample) | _other_columns(sample), sample.where)
    except BadRecord as error:
        source.skip(error, counted=True)
        return
    for member, content in ((name, data), (f"{stem}.json", text.encode("utf-8", "replace"))):
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _to_table(source: _Source, target: Path, suffix: str) -> Converted:
    _require_new(target)
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
    return Converted(rows=source.rows, skipped=source.skipped, paths=(target, *((images,) if extracted else ())))


class _TableRows(Iterable[dict[str, Any]]):
    """A source as rows of a table; may be iterated repeatedly. Images of shards are written into `folder`."""

    def __init__(self, source: _Source, target: Path, folder: Path, suffix: str) -> None:
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
        others = _other_columns(sample)
        if self._suffix in (".csv", ".tsv"):
            _only_image(sample)
            _require_flat(others, sample.where)
        images = [self._image(ref, f"{number:09d}", i, sample.where) for i, ref in enumerate(sample.images)]
        key = self._source.key_of(sample)
        row = _key_column(None if key == images[0] else key)
        row |= {"images": images} if len(images) > 1 else {"image": images[0]}
        if self._suffix == ".json" and sample.texts:  # the original's lists
            return row | {"caption": sample.texts[0] if len(sample.texts) == 1 else list(sample.texts)} | others
        return row | _captions(sample) | others

    def _image(self, ref: ImageRef, name: str, i: int, where: str) -> str:
        if ref.path is not None:
            return _relative(ref.path, self._target)
        data = _read(ref, where)
        file = f"{name}{f'-{i}' if i else ''}{_extension(ref, data, where)}"
        (self._folder / file).write_bytes(data)
        return f"{self._target.stem}-images/{file}"


def _key_column(key: str | None) -> dict[str, Any]:
    return {} if key is None else {"key": key}


def _captions(sample: Sample) -> dict[str, Any]:
    return {"captions": list(sample.texts)} if sample.texts else {}


def _write_json(path: Path, rows: Iterable[dict[str, Any]], as_list: bool) -> None:
    with open(path, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        for i, row in enumerate(rows):
            if as_list:
                file.write(",\n" if i else "[\n")
            file.write(_json(row, f"row {i + 1}") + ("" if as_list else "\n"))
        file.write("\n]\n" if as_list else "")


def _to_parquet(source: _Source, target: Path) -> Converted:
    """Column types are those of all rows, so the source is read twice; images are read in the second pass only."""
    _require_new(target)
    pyarrow = table_writer.require_pyarrow()
    paths = _ParquetRows(source, target, with_images=False)
    with atomic_path(target) as temporary:
        schema = table_writer.parquet_schema(paths)
        if paths.has_all_paths:
            table_writer.write_parquet_rows(temporary, paths, schema)
        else:
            rows = _ParquetRows(source, target, with_images=True)
            image = schema.get_field_index("image")
            schema = schema.set(image, schema.field(image).with_type(pyarrow.binary()))
            table_writer.write_parquet_rows(temporary, rows, schema, _PARQUET_IMAGES)
    return Converted(rows=source.rows, skipped=source.skipped, paths=(target,))


class _ParquetRows(Iterable[dict[str, Any]]):
    """A source as rows with the image's path (None if it is not a file) or its bytes."""

    def __init__(self, source: _Source, target: Path, *, with_images: bool) -> None:
        self._source, self._target, self._with_images = source, target, with_images
        self.has_all_paths = True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _, sample in self._source:
            try:
                ref = _only_image(sample)
                path = None if ref.path is None else _relative(ref.path, self._target)
                self.has_all_paths &= path is not None
                image = _read(ref, sample.where) if self._with_images else path
                row = _key_column(self._source.key_of(sample)) | {"image": image} | _captions(sample)
                yield row | _other_columns(sample)
            except BadRecord as error:
                self._source.skip(error, counted=True)


def _to_folder(source: _Source, target: Path) -> Converted:
    _require_new(target)
    dropped: dict[str, None] = {}
    with temporary_folder(target) as folder:
        for _, sample in source:
            try:
                data = _read(_only_image(sample), sample.where)
                extension = _extension(sample.image, data, sample.where)
                name = _file_stem(source.key_of(sample) or Path(sample.where).name)
                _add_to_folder(folder, name, extension, data, sample.texts)
                dropped |= dict.fromkeys(_other_columns(sample))
            except BadRecord as error:
                source.skip(error, counted=True)
        os.replace(folder, target)
    return Converted(rows=source.rows, skipped=source.skipped, paths=(target,), dropped=tuple(dropped))


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


def _only_image(sample: Sample) -> ImageRef:
    if len(sample.images) > 1:
        raise BadRecord(sample.where, "two images in a row; such rows can only be written as .json or .jsonl")
    return sample.image


def _read(ref: ImageRef, where: str) -> bytes:
    try:
        return ref.read_bytes()
    except UnreadableImage as error:
        raise BadRecord(where, str(error)) from error


def _extension(ref: ImageRef, data: bytes, where: str) -> str:
    """Return the extension of the image's name, else that of its format."""
    name = ref.source.name if isinstance(ref.source, Path | TarMember) else ""
    ending = os.path.splitext(name)[1].lower()
    if ending in EXTENSIONS:
        return ending
    kind = sniff.image_format(data)
    if kind not in _SUFFIXES:
        raise BadRecord(where, sniff.explain_not_image(data) if data else "empty image (0 bytes)")
    return _SUFFIXES[kind]


def _relative(path: Path, target: Path) -> str:
    """Return the path as a table at `target` refers to it: relative below its folder, else absolute."""
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(target.parent))
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)


def _require_flat(columns: dict[str, Any], where: str) -> None:
    for name, value in columns.items():
        if isinstance(value, list | dict) and name not in _CSV_LISTS:
            raise BadRecord(where, f"column '{name}' holds a list, which csv readers do not restore; write .jsonl")


def _json(values: dict[str, Any], where: str) -> str:
    try:
        return json.dumps(values, ensure_ascii=False)
    except TypeError as error:  # Parquet has more types of values
        raise BadRecord(where, f"a column cannot be written as JSON ({error})") from error


def _require_new(target: Path) -> None:
    for path in (target, target.with_name(f"{target.stem}-images")) if target.suffix else (target,):
        if os.path.lexists(path):
            raise UsageError(f"{path} exists; remove it or choose another name")
