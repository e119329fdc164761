"""Identity of the model that an index was created with: vectors of different models cannot be compared."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from blip.apps.search.database import Database
from blip.checkpoint.catalogue import BY_NAME
from blip.checkpoint.digest import weights_file
from blip.io.fetch import recorded_sha256, sha256_of
from blip_lite.errors import CheckpointMismatch
from blip_lite.onnx_backend import OnnxBackend

if TYPE_CHECKING:
    from blip_lite.model import Model

INT8 = "-int8"  # end of `Identity.weights` of graphs that multiply integers


@dataclass(frozen=True)
class Identity:
    """A model by the SHA-256 of its weights. `stamp` describes the weights file, so that it is hashed only once."""

    model: str
    weights: str
    image_size: int
    width: int
    stamp: str = ""

    @property
    def short_weights(self) -> str:
        return self.weights[:8] + (INT8 if self.weights.endswith(INT8) else "")

    def check(self, folder: Path, other: Identity) -> None:
        """Raise CheckpointMismatch if `other` computes other vectors."""
        if (self.weights, self.image_size, self.width) == (other.weights, other.image_size, other.width):
            return
        ours, theirs = (f"'{x.model}' ({x.short_weights}, {x.image_size} px)" for x in (self, other))
        raise CheckpointMismatch(
            f"{folder}: index was created with {ours}, not {theirs}; omit -m to use that model, or rebuild the "
            f"index with yours: blip index --rebuild -m {other.model}"
        )


def identity_of(model: Model, known: Identity | None = None) -> Identity:
    """Identity of a loaded model; `known` avoids hashing a weights file that has not changed."""
    file = weights_file(model.name)
    if file is None:
        weights, stamp = _hash_state(model), ""
    else:
        status = file.stat()
        stamp = f"{file}|{status.st_size}|{status.st_mtime_ns}"
        unchanged = known is not None and known.stamp == stamp
        weights = known.weights.removesuffix(INT8) if known and unchanged else recorded_sha256(file) or sha256_of(file)
        weights += INT8 if _multiplies_integers(model) else ""
    # the name must mean the same from every working folder
    name = os.path.abspath(model.name) if model.name not in BY_NAME and os.path.exists(model.name) else model.name
    return Identity(name, weights, model.config.vision.image_size, model.config.proj_width, stamp)


def load(db: Database) -> Identity | None:
    """Identity of the model of an index; None before the first photo."""
    rows = dict(db.execute("SELECT name, value FROM meta WHERE name LIKE 'model.%'"))
    return Identity(*(rows[f"model.{field.name}"] for field in fields(Identity))) if rows else None


def save(db: Database, identity: Identity) -> None:
    db.set_meta(**{f"model.{name}": value for name, value in asdict(identity).items()})


def _multiplies_integers(model: Model) -> bool:
    """Return whether a model computes with graphs of `blip export --int8`, whose vectors are other ones."""
    if not isinstance(model.backend, OnnxBackend):
        return False
    return b"MatMulInteger" in (model.backend.sessions.folder / "vision.onnx").read_bytes()


def _hash_state(model: Model) -> str:
    from blip.torch_backend import TorchBackend

    assert isinstance(model.backend, TorchBackend), "random weights are on torch"
    digest = hashlib.sha256()
    for key, tensor in sorted(model.backend.module.state_dict().items()):
        digest.update(key.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
