"""Embedding records as one array in a `.npz` or `.safetensors` file, with keys and metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from blip.io.atomic import atomic_path
from blip.io.records import Record, RecordWriter

SUFFIXES = (".npz", ".safetensors")
_META = ("kind", "projected", "dim", "dtype", "model")


class VectorFile(RecordWriter):
    """Collects `embedding/1` records; failed inputs are left out.

    npz: `keys`, `vectors`, `meta`; in safetensors, keys and meta are JSON text in its metadata. States of texts of
    different lengths are padded with zeros.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: list[str] = []
        self._vectors: list[Any] = []
        self._meta: dict[str, Any] = {}

    def write(self, records: Iterable[Record]) -> None:
        for record in records:
            if "error" in record:
                continue
            self._keys.append(record["key"])
            self._vectors.append(np.asarray(record["vector"]))
            self._meta = {name: record[name] for name in _META}

    def close(self, *, discard: bool = False) -> None:
        if discard:
            return
        vectors = _stacked(self._vectors)
        meta = json.dumps(self._meta)
        with atomic_path(self._path) as temporary:
            if self._path.suffix == ".npz":
                with open(temporary, "wb") as file:
                    np.savez(file, keys=np.array(self._keys, dtype=str), vectors=vectors, meta=np.array(meta))
            else:
                from safetensors.numpy import save_file

                save_file({"vectors": vectors}, temporary, {"keys": json.dumps(self._keys), "meta": meta})


def _stacked(vectors: list[Any]) -> Any:
    """Return [N, D], or [N, T, D] with shorter texts padded by zeros."""
    if not vectors:
        return np.zeros((0, 0), np.float32)
    longest = max(len(vector) for vector in vectors)
    stacked = np.zeros((len(vectors), longest, *vectors[0].shape[1:]), vectors[0].dtype)
    for row, vector in zip(stacked, vectors, strict=True):
        row[: len(vector)] = vector
    return stacked
