"""Records as tables: csv and tsv with nested fields as JSON text, Parquet with lists and structs."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from blip.io import schemas
from blip_lite.errors import MissingExtra

_CHUNK = 2048  # rows in memory at a time
Rows = Iterable[dict[str, Any]]


def check(form: str) -> None:
    """`MissingExtra` now rather than at the end of a long run."""
    if form == "parquet":
        _pyarrow()


def columns(rows: Rows, name: str) -> list[str]:
    """Keys that occur, in the order of the record `name`; unknown ones after them."""
    seen = dict.fromkeys(key for row in rows for key in row)
    known = schemas.fields(name)
    inner = [key for key in known if key in seen and key != "error"]
    return [*inner, *(key for key in seen if key not in known), *(["error"] if "error" in seen else [])]


def write_table(path: Path, rows: Rows, name: str, delimiter: str) -> None:
    """csv or tsv with a header, UTF-8, LF. `rows` is gone through twice."""
    names = columns(rows, name) or schemas.fields(name)[:-1]
    with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(row.get(key)) for key in names] for row in rows)


def write_parquet(path: Path, rows: Rows, name: str) -> None:
    """Parquet with types taken from all values; a `vector` column of one length is a fixed-size float32 list."""
    pyarrow = _pyarrow()
    names = columns(rows, name) or schemas.fields(name)[:-1]
    found = [_chunk_schema(pyarrow, chunk, names) for chunk in _chunks(rows)]
    schema = pyarrow.unify_schemas(found, promote_options="permissive") if found else None
    if schema is None:
        schema = pyarrow.schema([(key, pyarrow.string()) for key in names])
    lengths = {len(row["vector"]) for row in rows if "vector" in row}
    if len(lengths) == 1 and pyarrow.types.is_floating(schema.field("vector").type.value_type):
        at = schema.get_field_index("vector")
        schema = schema.set(at, pyarrow.field("vector", pyarrow.list_(pyarrow.float32(), lengths.pop())))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for chunk in _chunks(rows):
            arrays = [pyarrow.array([_filled(row.get(f.name)) for row in chunk], type=f.type) for f in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _chunk_schema(pyarrow: Any, chunk: list[dict[str, Any]], names: list[str]) -> Any:
    return pyarrow.schema([(key, pyarrow.array([_filled(row.get(key)) for row in chunk]).type) for key in names])


def _filled(value: Any) -> Any:
    """Parquet has no struct without fields, as an empty `params` would be."""
    return None if value == {} else value


def _chunks(rows: Rows) -> Iterator[list[dict[str, Any]]]:
    rest = iter(rows)
    while chunk := list(itertools.islice(rest, _CHUNK)):
        yield chunk


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra('--format parquet needs an extra: pip install "blip-vlm[data]"') from error
    return importlib.import_module("pyarrow")
