"""`blip.load(name)` and the catalogue of models."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

from blip.checkpoint.catalogue import ENTRIES, Entry, find
from blip.checkpoint.locate import locate, obtain
from blip_lite.checks import check_bool, check_int, check_path
from blip_lite.config import Family
from blip_lite.errors import UsageError
from blip_lite.model import Model
from blip_lite.onnx_backend import OnnxBackend, is_exported, open_folder

if TYPE_CHECKING:
    import torch

    from blip.torch_backend import TorchBackend

DEFAULT = "tiny"
MAX_IMAGE_SIZE = 4096  # pixels per side
BackendName = Literal["auto", "torch", "onnx"]


class LoadOptions(TypedDict, total=False):
    """Keyword arguments of `load` that `open_model` passes on."""

    device: str
    dtype: str
    threads: int | None
    image_size: int | None
    compile: bool
    offline: bool | None


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    threads: int | None = None,
    image_size: int | None = None,
    compile: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    strict: bool = True,
) -> Model[TorchBackend]:
    """Load a model by name, file, folder or hub id; without a name BLIP_MODEL, else the bundled `tiny`.

    Raises UnknownModel, OfflineError, CheckpointMismatch, EnvironmentProblem (no such device), UsageError or
    ConfigError for other arguments.
    """
    name = (os.environ.get("BLIP_MODEL") or DEFAULT) if name is None else name
    check_path("model", name)
    if threads is not None:
        check_int("threads", threads, 1)
    if image_size is not None:
        check_int("image_size", image_size, 1, MAX_IMAGE_SIZE)
    if cache_dir is not None:
        check_path("cache_dir", cache_dir)
    for option, value in (("compile", compile), ("strict", strict), ("offline", False if offline is None else offline)):
        check_bool(option, value)
    import torch

    from blip.checkpoint import load as checkpoint
    from blip.model.mkldnn_linear import pack
    from blip.runtime import choose_device, choose_dtype
    from blip.torch_backend import TorchBackend

    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    if compile and torch_dtype == torch.int8:
        raise UsageError("compile with dtype 'int8'; must be one of the two")
    loaded = checkpoint.load(
        os.fspath(name),
        image_size=image_size,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        offline=offline,
        strict=strict,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    backend = TorchBackend(loaded)
    if not compile:
        pack(backend.module)
    backend.to(torch_device, torch_dtype)
    if compile:
        backend.module.compile()
    return Model(backend)


def open_model(
    name: str, *, backend: BackendName = "auto", needs: Collection[str] = (), **options: Unpack[LoadOptions]
) -> Model:
    """Load a model on the backend that supports what is requested.

    backend: "auto" runs exported graphs on onnxruntime, without importing torch, if the model has them and they support
    everything requested; else torch. needs: capabilities that will be used, as in `Model.capabilities`. options: those
    of `load`. Raises UsageError if backend "onnx" is not possible, MissingPart if the model lacks what is needed.
    """
    if backend not in get_args(BackendName):
        raise UsageError(f"backend '{backend}'; must be one of {', '.join(get_args(BackendName))}")
    exported = None
    if backend != "torch":
        exported, problem = _open_exported(name, needs, options)
        if exported is None and backend == "onnx":
            raise UsageError(f"backend onnx; {problem}")
    model: Model = exported or load(name, **options)
    for call in needs:
        model.require(call)
    return model


def _open_exported(name: str, needs: Collection[str], options: LoadOptions) -> tuple[Model[OnnxBackend] | None, str]:
    """The model on onnxruntime, or None and why that is not possible."""
    for option, value, supported in (
        ("device", options.get("device"), ("auto", "cpu", None)),
        ("dtype", options.get("dtype"), ("auto", "fp32", None)),
        ("compile", options.get("compile"), (False, None)),
    ):
        if value not in supported:
            return None, f"{option} {value} is not supported with onnxruntime"
    folder = locate(name).path
    if folder is None or not is_exported(folder):
        return None, f"model '{name}' has no exported graphs; 'blip export' writes them"
    model = open_folder(folder, name, threads=options.get("threads"))
    size, exported_size = options.get("image_size"), model.config.vision.image_size
    if size not in (None, exported_size):
        return None, f"image size {size}; the graphs of '{name}' have {exported_size}"
    missing = [call for call in needs if call in model.config.capabilities - model.capabilities]
    if missing:
        return None, f"model '{name}' cannot {missing[0]}: {model.backend.missing_reason(missing[0])}"
    return model, ""


def load_random(family: Family = "pretrain", *, seed: int = 0) -> Model[TorchBackend]:
    """A very small model with seeded random weights; needs no files."""
    if family not in get_args(Family):
        raise UsageError(f"family {family!r:.40}; must be one of {', '.join(get_args(Family))}")
    check_int("seed", seed, 0)
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
    check_path("model", name)
    return find(name)


def download(name: str, *, cache_dir: str | os.PathLike[str] | None = None, offline: bool | None = None) -> Path:
    """The file or folder of a model, downloaded and checked once, then cached."""
    check_path("model", name)
    cache = None if cache_dir is None else Path(cache_dir)
    return obtain(locate(name, cache), offline=offline, cache_dir=cache)
