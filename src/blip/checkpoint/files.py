"""Read and write weights files (safetensors, `.pth`) and model folders of this package and of Transformers.

Pickles are loaded weights-only and run no code. Files are written under a temporary name and then renamed.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blip.checkpoint.hf import hf_config, processor_files, to_json
from blip.checkpoint.locate import CONFIG, HF_WEIGHTS, PICKLES, SUFFIXES, WEIGHTS
from blip.checkpoint.quantize import SUFFIX as SCALE_SUFFIX
from blip.checkpoint.quantize import dequantize
from blip.checkpoint.state_dict import from_blip
from blip.checkpoint.tables import shared_names
from blip.io.atomic import atomic_path, write_text
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointError, ConfigError
from blip_lite.text_files import load_json
from blip_lite.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Content of a file or folder. A file without folder has neither config; `folder` may contain a vocabulary."""

    state: dict[str, Tensor]
    config: BlipConfig | None = None
    hf_config: dict[str, Any] | None = None
    folder: Path | None = None


def read(path: Path) -> Stored:
    """Read a weights file (with the config.json in the same folder, if it is ours) or a model folder."""
    if path.is_dir():
        return read_folder(path)
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        return read_folder(path.parent)
    return Stored(state=read_state(path))


def read_folder(folder: Path) -> Stored:
    """Read a folder of this package (config.json of `BlipConfig`) or of Transformers (`model_type` blip)."""
    config_path = folder / CONFIG
    weights = next((folder / name for name in HF_WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not config_path.is_file():
        raise CheckpointError(f"{folder}: not a model folder; needs {CONFIG} and {WEIGHTS}")
    values = _read_json(config_path)
    if "model_type" in values:
        if values["model_type"] != "blip":
            raise CheckpointError(f"{config_path}: model_type '{values['model_type']}'; must be 'blip'")
        return Stored(state=read_state(weights), hf_config=values, folder=folder)
    try:
        config = BlipConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{config_path}: {error}") from error
    return Stored(state=read_state(weights), config=config, folder=folder)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU, int8 weights as float32; other content of a training file is ignored."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return dequantize(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from error
    if path.suffix not in PICKLES:
        raise CheckpointError(f"{path}: unknown type of weights file; must be one of {', '.join(SUFFIXES)}")
    return dequantize(_state_within(_load_pickle(path), path))


def write_folder(folder: Path, state: Mapping[str, Tensor], config: BlipConfig, vocab: Path | None = None) -> None:
    """Write a model folder: config.json, model.safetensors and the vocabulary, unless it is the bundled one.

    state: weights in the blip layout, plain or quantised. vocab: file to copy to `config.vocab` in the folder.
    """
    if vocab is None:
        if config.vocab != BlipConfig().vocab and not (folder / config.vocab).is_file():
            raise ConfigError(f"vocab '{config.vocab}': must be passed as a file, it is not the bundled one")
    else:
        if Path(config.vocab).name != config.vocab:
            raise ConfigError(f"vocab '{config.vocab}'; must be a plain file name")
        with atomic_path(folder / config.vocab) as part:
            shutil.copyfile(vocab, part)
    shared = shared_names(config)  # stored once, under the decoder's name
    write_safetensors(folder / WEIGHTS, {k: v for k, v in state.items() if k.removesuffix(SCALE_SUFFIX) not in shared})
    write_text(folder / CONFIG, to_json(config.to_dict()))


def write_hf_folder(folder: Path, state: Mapping[str, Tensor], config: BlipConfig, vocab: Path | None = None) -> None:
    """Write a Transformers folder with model and processor, for `from_pretrained`.

    vocab: the vocabulary file, unless it is the bundled one. Raises ConfigError if Transformers has no such model.
    """
    weights = from_blip(state, config, "hf")
    tokenizer = Tokenizer.from_config(config, vocab.parent if vocab is not None else None)
    write_safetensors(folder / WEIGHTS, weights)
    for name, content in processor_files(config, tokenizer).items():
        write_text(folder / name, content)
    write_text(folder / CONFIG, to_json(hf_config(config)))


def write_original(
    path: Path, state: Mapping[str, Tensor], config: BlipConfig, training: Mapping[str, Tensor] | None = None
) -> None:
    """Write a file that the original's code opens: `.pth` {"model": state}, or safetensors with the same names."""
    weights = from_blip(state, config, "original", training)
    if path.suffix == ".safetensors":
        write_safetensors(path, weights)
        return
    with atomic_path(path) as part:
        torch.save({"model": weights}, part)


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors to a file; those that share memory are written under each of their names."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        whole = tensor.detach().contiguous()
        separate[name] = whole.clone() if whole.data_ptr() in seen else whole
        seen.add(whole.data_ptr())
    with atomic_path(path) as part:
        save_file(separate, part, metadata={"format": "pt"})


def _load_pickle(path: Path) -> object:
    """Weights-only unpickling, memory-mapped if the format allows it (not in files of torch before 1.6)."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        type_name = reason.split("Unsupported global: GLOBAL ")[-1].split(" ")[0] if "GLOBAL" in reason else ""
        holds = f"it holds {type_name}, which" if type_name else "its content"
        raise CheckpointError(f"{path}: refused: {holds} is not plain weights; convert it to safetensors") from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise CheckpointError(f"{path}: damaged or not a weights file ({first_line(error)})") from error


def _state_within(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in a pickle: {"model": …} (the original), {"state_dict": …}, or the state dict itself."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: contains no state dict")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: '{name}' is not a tensor; a state dict maps names to tensors")
    return dict(content)


def first_line(error: Exception) -> str:
    """First line of an error's message, at most 200 characters."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = load_json(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must be a JSON object")
    return values
