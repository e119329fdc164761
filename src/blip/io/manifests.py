"""Manifests: tables of images as .jsonl, .json, .csv, .tsv or .parquet with a column `image`, row by row."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blip.errors import MissingExtra, UnreadableImage, UsageError

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_COLUMNS = ("text", "texts", "question", "question_id", "answers", "url")
_LISTS = ("texts", "answers")  # columns that hold JSON lists in csv and tsv
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `where` is file and row, `values` maps column to value; a broken row has `problem` instead."""

    where: str
    values: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ParquetCell:
    """Image bytes kept within a Parquet file."""

    path: Path
    group: int
    row: int

    def read(self) -> bytes:
        value = _image_column(self.path, self.group)[self.row].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes):
            raise UnreadableImage(f"{self.path}:{self.group}:{self.row}", "no image bytes in this row")
        return value


def rows(path: Path) -> Iterator[Row]:
    """Rows of a manifest in file order. A file that is no manifest raises `UsageError`; a bad row has a `problem`."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix == ".json":
            yield from _json_rows(path)
        elif suffix in (".csv", ".tsv"):
            yield from _table_rows(path, "\t" if suffix == ".tsv" else ",")
        else:
            yield from _jsonl_rows(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error


def sample_fields(name: str, data: bytes) -> dict[str, Any]:
    """Columns that a `.txt` or `.json` beside an image gives; what cannot be read gives none."""
    text = data.decode("utf-8-sig", "replace").strip()
    if not name.lower().endswith(".json"):
        return {"text": text}
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(values, dict):
        return {}
    if isinstance(values.get("caption"), str):  # the name that the usual downloader writes
        values.setdefault("text", values["caption"])
    return {k: values[k] for k in _COLUMNS if values.get(k) is not None}


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield _row(f"{path}:{number}", json.loads(line))
                except ValueError as error:
                    yield Row(f"{path}:{number}", {}, f"not a JSON object ({error})")


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(values, list):
        raise UsageError(f"{path}: must be a JSON list of objects with a field 'image'")
    for number, value in enumerate(values, 1):
        yield _row(f"{path}:{number}", value)


def _row(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(where, {}, f"not a JSON object but {type(value).__name__}")
    return Row(where, value)


def _table_rows(path: Path, delimiter: str) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
        try:
            header = next(reader, [])
            _need_image(path, header)
            for cells in reader:
                if not cells:
                    continue
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(header):
                    yield Row(where, {}, f"{len(cells)} columns; the header has {len(header)}")
                    continue
                try:
                    yield Row(where, {n: _cell(n, c) for n, c in zip(header, cells, strict=True) if c != ""})
                except ValueError as error:
                    yield Row(where, {}, str(error))
        except csv.Error as error:
            raise UsageError(f"{path}:{reader.line_num}: {error}") from error


def _cell(name: str, text: str) -> Any:
    if name in _LISTS and text.startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"column '{name}' is not a JSON list ({error})") from error
    return text


def _need_image(path: Path, names: list[str]) -> None:
    if "image" not in names:
        raise UsageError(f"{path}: has no column 'image'; columns are {', '.join(names) or 'none'}")


def _parquet(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra(f'{path} is Parquet; reading it needs an extra: pip install "blip-vlm[data]"') from error
    try:
        return parquet.ParquetFile(path)
    except importlib.import_module("pyarrow").ArrowException as error:
        raise UsageError(f"{path}: not a readable Parquet file ({error})") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    """Rows without image bytes: those stay in the file until they are asked for."""
    file = _parquet(path)
    names = list(file.schema_arrow.names)
    _need_image(path, names)
    kept_out = not _is_text(file.schema_arrow.field("image").type)
    columns = [name for name in names if not (kept_out and name == "image")]
    number = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        batches = file.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=columns) if columns else ()
        found = (values for batch in batches for values in batch.to_pylist())
        for row in range(count):
            values = {k: v for k, v in next(found, {}).items() if v is not None}
            number += 1
            if kept_out:
                values["image"] = ParquetCell(path, group, row)
            yield Row(f"{path}:{number}", values)


def _is_text(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


@lru_cache(maxsize=2)
def _image_column(path: Path, group: int) -> Any:
    return _parquet(path).read_row_group(group, columns=["image"]).column("image").combine_chunks()
