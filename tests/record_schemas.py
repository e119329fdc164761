"""Validation of records against their published JSON Schemas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from blip.io.schemas import schema


def problem(record: Any) -> str | None:
    """Return the reasons why a record does not fit the schema that it names, or None."""
    name = record.get("schema") if isinstance(record, dict) else None
    rule = schema(str(name))
    Draft202012Validator.check_schema(rule)
    return "; ".join(_messages(Draft202012Validator(rule).iter_errors(record))) or None


def _messages(errors: Iterable[ValidationError]) -> list[str]:
    return [message for e in errors for message in (_messages(e.context) if e.context else [e.message])]
