"""Rows as tables: csv and tsv with nested values as JSON text, Parquet with lists and structs."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blip.io import schemas
from blip.io.ordered_map import batched
from blip_lite.errors import MissingExtra, UsageError

CHUNK = 2048  # rows in memory at a time
Rows = Iterable[dict[str, Any]]


def columns(rows: Rows, name: str) -> list[str]:
    """Return the keys that occur in rows, in the order of the record `name`, unknown ones after them."""
    seen = dict.fromkeys(key for row in rows for key in row)
    known = schemas.fields(name)
    inner = [key for key in known if key in seen and key != "error"]
    return [*inner, *(key for key in seen if key not in known), *(["error"] if "error" in seen else [])]


def write_table(path: Path, rows: Rows, name: str, delimiter: str) -> None:
    """Write csv or tsv with a header, UTF-8, LF. `rows` is iterated twice."""
    names = columns(rows, name) or schemas.fields(name)[:-1]
    with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(row.get(key)) for key in names] for row in rows)


def write_parquet(path: Path, rows: Rows, name: str) -> None:
    """Write records as Parquet; a `vector` column of one length is a fixed-size float32 list. Iterates `rows` often."""
    pyarrow = require_pyarrow()
    names = columns(rows, name) or schemas.fields(name)[:-1]
    schema = parquet_schema(rows)
    schema = pyarrow.schema([schema.field(key) if key in schema.names else (key, pyarrow.string()) for key in names])
    lengths = {len(row["vector"]) for row in rows if "vector" in row}
    if len(lengths) == 1 and pyarrow.types.is_floating(schema.field("vector").type.value_type):
        at = schema.get_field_index("vector")
        schema = schema.set(at, pyarrow.field("vector", pyarrow.list_(pyarrow.float32(), lengths.pop())))
    write_parquet_rows(path, rows, schema)


def parquet_schema(rows: Rows) -> Any:  # Any: pyarrow has no types
    """Return the columns of rows with the types that hold all their values. Raises `UsageError` if none does."""
    pyarrow = require_pyarrow()
    chunk_schemas = [_chunk_schema(pyarrow, chunk) for chunk in batched(rows, CHUNK)]
    with _one_type():
        return (
            pyarrow.unify_schemas(chunk_schemas, promote_options="permissive") if chunk_schemas else pyarrow.schema([])
        )


def write_parquet_rows(path: Path, rows: Rows, schema: Any, chunk: int = CHUNK) -> None:  # Any: pyarrow has no types
    """Write rows under a schema, `chunk` rows per group."""
    pyarrow = require_pyarrow()
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in batched(rows, chunk):
            with _one_type():
                arrays = [pyarrow.array([_filled(row.get(f.name)) for row in batch], type=f.type) for f in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _chunk_schema(pyarrow: Any, chunk: list[dict[str, Any]]) -> Any:
    fields = []
    for key in dict.fromkeys(key for row in chunk for key in row):
        with _one_type(key):
            fields.append((key, pyarrow.array([_filled(row.get(key)) for row in chunk]).type))
    return pyarrow.schema(fields)


@contextmanager
def _one_type(column: str | None = None) -> Iterator[None]:
    """Name the column whose values have no common type."""
    try:
        yield
    except importlib.import_module("pyarrow").ArrowException as error:
        where = "a column" if column is None else f"column '{column}'"
        raise UsageError(f"{where} holds values of different types ({error}); write .jsonl") from error


def _filled(value: Any) -> Any:
    """Return None for an empty object, such as `params`: Parquet has no struct without fields."""
    return None if value == {} else value


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def require_pyarrow() -> Any:  # Any: pyarrow has no types
    """Return the module, or raise `MissingExtra`: now rather than at the end of a long run."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra('--format parquet needs an extra: pip install "blip-vlm[data]"') from error
    return importlib.import_module("pyarrow")
