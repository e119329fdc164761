"""JSON Schemas of the records (draft 2020-12), from schemas.json. Properties are in the order of a record's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_lite.errors import UsageError, did_you_mean
from blip_lite.text_files import load_json

Schema = dict[str, Any]

_RECORDS: dict[str, Schema] = load_json(Path(__file__).with_suffix(".json"))
NAMES = tuple(_RECORDS)
_WITHOUT_ERRORS = ("capfilt", "metrics", "train")  # rows of capfilt have a column for the reason
_TEXT: Schema = {"type": "string"}
_ERROR: Schema = {
    "type": "object",
    "properties": {"type": _TEXT, "reason": _TEXT},
    "required": ["type", "reason"],
}


def schema(name: str) -> Schema:
    """Return the JSON Schema of a record: a result or an error record (capfilt, metrics and train have none)."""
    base = name.removesuffix("/1")
    if base not in _RECORDS:
        raise UsageError(f"unknown record '{name}'{did_you_mean(name, NAMES)}; must be one of {', '.join(NAMES)}")
    record = _RECORDS[base]
    tag: Schema = {"const": f"{base}/1"}
    properties, required = {"schema": tag, **record["properties"]}, ["schema", *record["required"]]
    result = {**record, "properties": properties, "required": required}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{base}/1"}
    if base in _WITHOUT_ERRORS:
        return {**head, **result}
    result["not"] = {"required": ["error"]}
    error = {
        "type": "object",
        "properties": {"schema": tag, "key": _TEXT, "error": _ERROR},
        "required": ["schema", "key", "error"],
    }
    return {**head, "oneOf": [result, error]}


def fields(name: str) -> list[str]:
    """Return the keys of a record in order, `schema` first and `error` last."""
    record = _RECORDS.get(name.removesuffix("/1"), {"properties": {}})
    return list(dict.fromkeys(["schema", *record["properties"], "error"]))
