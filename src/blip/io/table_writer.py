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


def write_parquet(path: Path, rows: Rows, name: str, *, all_columns: bool = False) -> None:
    """Write records as Parquet; a `vector` column of one length is a fixed-size float32 list. Iterates `rows` often.

    all_columns: those of the record `name` that no row uses are written too.
    """
    pyarrow = require_pyarrow()
    names = columns(rows, name) or schemas.fields(name)[:-1]
    schema = parquet_schema(rows)
    if all_columns:
        known = record_schema(name)
        schema = pyarrow.unify_schemas([known, schema], promote_options="permissive")
        names = [key for key in (*schemas.fields(name), *schema.names) if key in schema.names]
        names = list(dict.fromkeys(names))
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


def record_schema(name: str) -> Any:  # Any: pyarrow has no types
    """Return the columns of a record with their types, without objects whose fields vary."""
    pyarrow = require_pyarrow()
    result, error = schemas.schema(name)["oneOf"]
    properties = {**result["properties"], "error": error["properties"]["error"]}
    types = {key: _arrow_type(pyarrow, value) for key, value in properties.items()}
    return pyarrow.schema([(key, kind) for key, kind in types.items() if kind is not None])


def _arrow_type(pyarrow: Any, schema: schemas.Schema) -> Any:
    """Return the Arrow type of values of a JSON Schema; None if it depends on the values."""
    kind = "string" if "const" in schema or "enum" in schema else schema.get("type")
    if kind == "array":
        item = _arrow_type(pyarrow, schema["items"]) if "items" in schema else None
        return None if item is None else pyarrow.list_(item)
    if kind == "object":
        fields = {key: _arrow_type(pyarrow, value) for key, value in schema.get("properties", {}).items()}
        return pyarrow.struct(list(fields.items())) if fields and None not in fields.values() else None
    names = {"string": "string", "number": "double", "integer": "int64", "boolean": "bool"}
    return pyarrow.type_for_alias(names[kind]) if isinstance(kind, str) and kind in names else None


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
