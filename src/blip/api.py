"""`blip.load(name)` and the catalogue of models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from blip.checkpoint.catalogue import ENTRIES, Entry, find
from blip.checkpoint.locate import locate, obtain
from blip_lite.config import Family
from blip_lite.model import Model

if TYPE_CHECKING:
    from blip.torch_backend import TorchBackend

DEFAULT = "tiny"


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    image_size: int | None = None,
    compile: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    strict: bool = True,
) -> Model[TorchBackend]:
    """Load a model by name, file, folder or hub id; without a name BLIP_MODEL, else the bundled `tiny`.

    Raises UnknownModel, OfflineError, CheckpointMismatch, EnvironmentProblem (no such device).
    """
    import torch

    from blip.checkpoint import load as checkpoint
    from blip.model.mkldnn_linear import pack
    from blip.runtime import choose_device, choose_dtype
    from blip.torch_backend import TorchBackend

    torch_device = choose_device(device)
    loaded = checkpoint.load(
        os.fspath(name or os.environ.get("BLIP_MODEL") or DEFAULT),
        image_size=image_size,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        offline=offline,
        strict=strict,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    backend = TorchBackend(loaded).to(torch_device, choose_dtype(dtype, torch_device))
    if compile:
        backend.module.compile()
    else:
        pack(backend.module)
    return Model(backend)


def load_random(family: Family = "pretrain", *, seed: int = 0) -> Model[TorchBackend]:
    """A very small model with seeded random weights; needs no files."""
    from blip.checkpoint.load import random_tiny
    from blip.model.mkldnn_linear import pack
    from blip.torch_backend import TorchBackend

    loaded = random_tiny(family, seed=seed)
    pack(loaded.model)
    return Model(TorchBackend(loaded))


def list_models() -> list[str]:
    """Model names that `load` knows."""
    return [entry.name for entry in ENTRIES]


def info(name: str) -> Entry:
    """Origin, training data, published scores and licence of a model."""
    return find(name)


def download(name: str, *, cache_dir: str | os.PathLike[str] | None = None, offline: bool | None = None) -> Path:
    """The file or folder of a model, downloaded and checked once, then cached."""
    cache = None if cache_dir is None else Path(cache_dir)
    return obtain(locate(name, cache), offline=offline, cache_dir=cache)
