"""Embedding records as one array in a `.npz` or `.safetensors` file, with keys and metadata."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blip.io.formats import Format
from blip.io.records import Record

_META = ("kind", "projected", "dim", "dtype", "model")


def to_text(record: Record) -> Record:
    """Return a record with its vector as text that keeps all bits: type, shape and base64."""
    if "vector" not in record:
        return record
    vector = np.ascontiguousarray(record["vector"])
    data = base64.b64encode(vector.tobytes()).decode("ascii")
    return {**record, "vector": {"type": vector.dtype.str, "shape": list(vector.shape), "data": data}}


def _to_array(stored: dict[str, Any]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(stored["data"]), stored["type"]).reshape(stored["shape"])


def write(path: Path, rows: Iterable[dict[str, Any]], format: Format) -> None:
    """Write `embedding/1` records, stored by `to_text`; failed inputs are left out.

    npz: `keys`, `vectors`, `meta`; in safetensors, keys and meta are JSON text in its metadata. States of texts of
    different lengths are padded with zeros.
    """
    keys: list[str] = []
    arrays: list[NDArray[Any]] = []
    about: dict[str, Any] = {}
    for row in rows:
        if "error" not in row:
            keys.append(row["key"])
            arrays.append(_to_array(row["vector"]))
            about = {name: row[name] for name in _META}
    vectors, meta = _stacked(arrays), json.dumps(about)
    if format == "npz":
        with open(path, "wb") as file:
            np.savez(file, keys=np.array(keys, dtype=str), vectors=vectors, meta=np.array(meta))
    else:
        from safetensors.numpy import save_file

        save_file({"vectors": vectors}, path, {"keys": json.dumps(keys), "meta": meta})


def _stacked(vectors: list[NDArray[Any]]) -> NDArray[Any]:
    """Return [N, D], or [N, T, D] with shorter texts padded by zeros."""
    if not vectors:
        return np.zeros((0, 0), np.float32)
    longest = max(len(vector) for vector in vectors)
    stacked = np.zeros((len(vectors), longest, *vectors[0].shape[1:]), vectors[0].dtype)
    for row, vector in zip(stacked, vectors, strict=True):
        row[: len(vector)] = vector
    return stacked
