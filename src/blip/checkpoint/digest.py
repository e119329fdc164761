"""SHA-256 of the weights of a model, which identifies it. Needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from blip.checkpoint.locate import INDEX, find_weights, locate, obtain, shard_names
from blip.io.fetch import recorded_sha256, sha256_of
from blip_lite.errors import BlipError, CheckpointError


def weights_file(name: str) -> Path | None:
    """Return the local weights file of a model; None for random weights, shards and names that cannot be resolved."""
    try:
        location = locate(name)
        if location.entry is not None and location.entry.source == "random":
            return None
        path = obtain(location, offline=True)
    except BlipError:
        return None
    if path.is_dir():
        weights = find_weights(path)
        return None if weights is None or weights.name.endswith(INDEX) else weights
    return path


def weights_sha256(name: str, *, offline: bool | None = None) -> str:
    """Return the SHA-256 of a model's weights, downloaded if necessary: of shards, that of their sums.

    Raises `UnknownModel`, `OfflineError` and `CheckpointError` as loading the model does.
    """
    location = locate(name)
    if location.entry is not None and location.entry.source == "random":
        return hashlib.sha256(location.name.encode()).hexdigest()
    path = obtain(location, offline=offline)
    file = find_weights(path) if path.is_dir() else path
    if file is None:
        raise CheckpointError(f"{path}: holds no weights")
    if not file.name.endswith(INDEX):
        return recorded_sha256(file) or sha256_of(file)
    sums = (f"{sha256_of(file.parent / shard)}  {shard}\n" for shard in sorted(set(shard_names(file).values())))
    return hashlib.sha256("".join(sums).encode()).hexdigest()
