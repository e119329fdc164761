"""Records, the results of commands: dicts with the keys of `blip.io.schemas`, in that order."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def clean(value: Any) -> Any:  # Any: JSON values
    """Return a record's value as JSON can hold it: floats with 6 significant digits, without None and NaN entries."""
    if isinstance(value, Mapping):
        return {str(k): c for k, v in value.items() if (c := clean(v)) is not None}
    if hasattr(value, "tolist"):  # numpy and torch numbers and arrays
        return clean(value.tolist())
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def to_json(record: Record) -> str:
    """Return a record as one line of JSON, keys in its order."""
    text = json.dumps(clean(record), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")  # some readers treat these as line ends


def error_record(schema: str, key: str, error: BaseException) -> dict[str, Any]:
    """Return the record that replaces a failed result."""
    reason = getattr(error, "reason", None) or " ".join(str(error).split())
    return {"schema": schema, "key": key, "error": {"type": type(error).__name__, "reason": reason}}


def image_id(key: str) -> int | str:
    """Return COCO's number of an image: the digits that end its file name, else the key itself."""
    match = re.search(r"(?:^|[_/])0*(\d+)(?:\.[A-Za-z0-9]+)?$", key)
    return int(match[1]) if match else key
