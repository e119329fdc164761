"""Tensors of weights files: safetensors and PyTorch files, whole or in shards with an index.

Pickles are loaded weights-only and run no code. The format is recognised by content, so any ending may be wrong.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blip.checkpoint.locate import INDEX, SUFFIXES, shard_names
from blip.checkpoint.quantize import dequantize
from blip.checkpoint.unwrap import find_state, without_wrappers
from blip_lite.errors import CheckpointError, CheckpointMismatch
from blip_lite.weights_sniff import weights_format

SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.\w+$")
# Settings that training programs save beside weights. Their classes are replaced by an empty one; no code runs.
SETTINGS = re.compile(
    r"(argparse|omegaconf|lightning|lightning_fabric|lightning_utilities|pytorch_lightning|ruamel\.yaml|yacs|easydict"
    r"|ml_collections|pathlib|datetime|enum|typing)\.|numpy(\._?core)?\.(multiarray|dtype)|numpy\.dtypes\."
)


class _Setting(dict[Any, Any]):
    """Stands for any object that is not needed."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __new__(cls, *_: object, **__: object) -> _Setting:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU, int8 weights as float32; other content of a training file is ignored.

    An index, or one of its shards, stands for all shards. Raises CheckpointError, which names the file and the reason.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if path.name.endswith(INDEX):
        return _floats(_read_shards(path), path)
    shard = SHARD.search(path.name)
    if shard is not None and int(shard[2]) > 1:
        index = path.with_name(SHARD.sub(path.suffix + INDEX, path.name))
        if not index.is_file():
            raise CheckpointError(f"{path}: one of {int(shard[2])} shards; the index {index.name} is missing beside it")
        return _floats(_read_shards(index), index)
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path}: unknown type of weights file; must be one of {', '.join(SUFFIXES)}")
    return _floats(_read_file(path), path)


def _floats(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state with int8 weights as float32; 8-bit floats are refused, their scales are known to their writer only."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.itemsize == 1:
            raise CheckpointMismatch(f"{path}: {name} is {tensor.dtype}; must be a float of 16 bits or more, or int8")
    try:
        return dequantize(state)
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"{path}: {error}") from error


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        safetensors = weights_format(path) == "safetensors"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not safetensors:
        return without_wrappers(find_state(_load_pickle(path), path), path)
    try:
        return without_wrappers(load_file(path), path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({first_line(error)})") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read all shards of an index. Raises CheckpointError for missing shards and for tensors that no shard has."""
    state: dict[str, Tensor] = {}
    names = shard_names(index)
    files = sorted(set(names.values()))
    missing = [file for file in files if not index.with_name(file).is_file()]
    if missing:
        raise CheckpointError(f"{index}: {len(missing)} of {len(files)} shards missing: {', '.join(missing[:3])}")
    for file in files:
        shard = _read_file(index.with_name(file))
        expected = [name for name, holder in names.items() if holder == file]
        absent = sorted(without_wrappers(dict.fromkeys(expected, torch.empty(0)), index).keys() - shard.keys())
        if absent:
            raise CheckpointError(f"{index.with_name(file)}: no tensor {absent[0]}, which {index.name} expects there")
        state |= shard
    return state


def _load_pickle(path: Path) -> object:
    """Weights-only unpickling, memory-mapped if the format allows it (not in files of torch before 1.6)."""
    try:
        if path.suffix.lower() == ".safetensors":  # torch goes by the name
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return _load_without_settings(path)
    except pickle.UnpicklingError as error:
        reason = str(error)
        type_name = reason.split("Unsupported global: GLOBAL ")[-1].split(" ")[0] if "GLOBAL" in reason else ""
        holds = f"it holds {type_name}, which" if type_name else "its content"
        raise CheckpointError(f"{path}: refused: {holds} is not plain weights; convert it to safetensors") from error
    except Exception as error:  # damaged pickles raise nearly anything
        truncated = "truncated or damaged" if "central directory" in str(error) else "damaged or not a weights file"
        raise CheckpointError(f"{path}: {truncated} ({first_line(error)})") from error


def _load_without_settings(path: Path) -> object:
    """Load a file whose only unknown classes are settings of training programs."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    settings: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_Setting, name) for name in names if SETTINGS.match(name)
    ]
    with torch.serialization.safe_globals(settings):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def first_line(error: Exception) -> str:
    """First line of an error's message, at most 200 characters."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def require_finite(tensor: Tensor, where: str) -> Tensor:
    """The tensor; CheckpointMismatch if it is not of a floating-point type or has values that are not finite."""
    if not tensor.is_floating_point():
        raise CheckpointMismatch(f"{where} is {tensor.dtype}; must be a floating-point type")
    if tensor.is_meta or math.isfinite(float(tensor.sum(dtype=torch.float32))):  # fast; no tensor of the file's size
        return tensor
    broken = int((~tensor.float().isfinite()).sum())  # finite values can have an infinite sum
    if broken:
        values = "value that is" if broken == 1 else "values that are"
        raise CheckpointMismatch(f"{where} has {broken:,} {values} NaN or infinite, of {tensor.numel():,}")
    return tensor
