"""Which model an index was made with: vectors of two models cannot be compared."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from blip.checkpoint.catalogue import BY_NAME
from blip.checkpoint.locate import HF_WEIGHTS, locate, obtain
from blip.io.fetch import recorded_sha256, sha256_of
from blip_lite.errors import BlipError, CheckpointMismatch

if TYPE_CHECKING:
    from blip.api import Model


@dataclass(frozen=True)
class Identity:
    """A model by its weights. `stamp` is the file that they were read from, so that it is hashed once."""

    model: str
    weights: str
    image_size: int
    width: int
    stamp: str = ""

    def check(self, folder: Path, other: Identity) -> None:
        """Raises CheckpointMismatch where `other` would give other vectors."""
        if (self.weights, self.image_size, self.width) == (other.weights, other.image_size, other.width):
            return
        ours, theirs = (f"'{x.model}' ({x.weights[:8]}, {x.image_size} px)" for x in (self, other))
        raise CheckpointMismatch(
            f"{folder}: index was made with {ours}, not {theirs}; leave out -m to use that model, or make the "
            f"index anew with yours: blip index --rebuild -m {other.model}"
        )


def identity_of(model: Model, known: Identity | None = None) -> Identity:
    """The identity of a loaded model; `known` saves the hashing of a file that is as it was."""
    file = _weights_file(model.name)
    if file is None:
        return _identity(model, _of_state(model))
    status = file.stat()
    stamp = f"{file}|{status.st_size}|{status.st_mtime_ns}"
    if known is not None and known.stamp == stamp:
        return _identity(model, known.weights, stamp)
    return _identity(model, recorded_sha256(file) or sha256_of(file), stamp)


def _identity(model: Model, weights: str, stamp: str = "") -> Identity:
    return Identity(_lasting_name(model.name), weights, model.config.vision.image_size, model.config.proj_width, stamp)


def _lasting_name(name: str) -> str:
    """A name that means the same from every working folder."""
    return os.path.abspath(name) if name not in BY_NAME and os.path.exists(name) else name


def load(db: sqlite3.Connection) -> Identity | None:
    """What an index says of its model; None before the first photo."""
    rows = dict(db.execute("SELECT name, value FROM facts WHERE name LIKE 'model.%'"))
    return Identity(*(rows[f"model.{f.name}"] for f in fields(Identity))) if rows else None


def save(db: sqlite3.Connection, identity: Identity) -> None:
    rows = [(f"model.{f.name}", value) for f, value in zip(fields(identity), astuple(identity), strict=True)]
    db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)


def _weights_file(name: str) -> Path | None:
    """The file of weights on this disk; None for random ones and for what cannot be told by its name any more."""
    try:
        found = locate(name)
        if found.entry is not None and found.entry.source == "random":
            return None
        path = obtain(found, offline=True)
    except BlipError:
        return None
    if path.is_dir():
        return next((path / name for name in HF_WEIGHTS if (path / name).is_file()), None)
    return path


def _of_state(model: Model) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(model.module.state_dict().items()):
        digest.update(key.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
