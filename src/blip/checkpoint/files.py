"""Weights files and model folders: safetensors, `.pth` (weights only, no code ever runs), ours and Transformers'.

Writing is atomic: a temporary name, then a rename, so that a reader never sees half a file.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blip.checkpoint.infer import hf_config
from blip.checkpoint.locate import CONFIG, HF_WEIGHTS, PICKLES, SUFFIXES, WEIGHTS
from blip.checkpoint.processor import processor_files
from blip.checkpoint.quantize import dequantize
from blip.checkpoint.state_dict import from_ours
from blip.checkpoint.tables import shared_names
from blip.io.atomic import atomic_path, write_text
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointError, ConfigError, EnvironmentProblem
from blip_lite.tokenizer import Tokenizer

WRITE_FAILURES = ("IoError", "I/O error", "No space left", "file write failed", "unexpected pos", "enforce fail")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What lies in a file or folder. A bare file has neither config; `folder` is where a vocabulary may lie."""

    state: dict[str, Tensor]
    config: BlipConfig | None = None
    hf_config: dict[str, Any] | None = None
    folder: Path | None = None


def read(path: Path) -> Stored:
    """A weights file (with the config.json of our own kind beside it, if there is one) or a model folder."""
    if path.is_dir():
        return read_folder(path)
    if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        return read_folder(path.parent)
    return Stored(state=read_state(path))


def read_folder(folder: Path) -> Stored:
    """Our folder (config.json of `BlipConfig`) or one of Transformers (`model_type` blip)."""
    config_path = folder / CONFIG
    weights = next((folder / name for name in HF_WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not config_path.is_file():
        raise CheckpointError(f"{folder}: no model folder; needs {CONFIG} and {WEIGHTS}")
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
    """The tensors of a file on the CPU, int8 weights as float32; what else a training file holds is left out."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return dequantize(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged or no safetensors file ({error})") from error
    if path.suffix not in PICKLES:
        raise CheckpointError(f"{path}: unknown kind of weights file; must be one of {', '.join(SUFFIXES)}")
    return dequantize(_state_within(_load_pickle(path), path))


def write_folder(folder: Path, state: Mapping[str, Tensor], config: BlipConfig, vocab: Path | None = None) -> None:
    """A model in our layout: config.json, model.safetensors and, where it is not the bundled one, the vocabulary.

    state: under our names, plain or quantised. vocab: copied to `config.vocab` in the folder.
    """
    shared = shared_names(config)  # pre-training: one name per shared tensor
    if vocab is None:
        if config.vocab != BlipConfig().vocab and not (folder / config.vocab).is_file():
            raise ConfigError(f"vocab '{config.vocab}': the file must be given, it is not the bundled one")
    else:
        if Path(config.vocab).name != config.vocab:
            raise ConfigError(f"vocab '{config.vocab}'; must be a plain file name")
        with _replacing(folder / config.vocab) as part:
            shutil.copyfile(vocab, part)
    kept = {name: tensor for name, tensor in state.items() if _stored_name(name) not in shared}
    write_safetensors(folder / WEIGHTS, kept)
    write_json(folder / CONFIG, config.to_dict())


def write_hf_folder(folder: Path, state: Mapping[str, Tensor], config: BlipConfig, vocab: Path | None = None) -> None:
    """A folder whose `from_pretrained`, model and processor, computes what we compute: Transformers' form.

    vocab: the vocabulary file where it is not the bundled one. Raises ConfigError for a model that has no such form.
    """
    theirs = from_ours(state, config, "hf")
    tokenizer = Tokenizer.from_config(config, vocab.parent if vocab is not None else None)
    write_safetensors(folder / WEIGHTS, theirs)
    for name, content in processor_files(config, tokenizer).items():
        write_text(folder / name, content)
    write_json(folder / CONFIG, hf_config(config))


def write_original(
    path: Path, state: Mapping[str, Tensor], config: BlipConfig, training: Mapping[str, Tensor] | None = None
) -> None:
    """A file that the original's code opens: `.pth` {"model": state}, or safetensors under the same names."""
    theirs = from_ours(state, config, "original", training)
    if path.suffix == ".safetensors":
        write_safetensors(path, theirs)
        return
    with _replacing(path) as part:
        torch.save({"model": theirs}, part)


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Tensors that share memory are written out once each, under every name."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        whole = tensor.detach().contiguous()
        separate[name] = whole.clone() if whole.data_ptr() in seen else whole
        seen.add(whole.data_ptr())
    with _replacing(path) as part:
        save_file(separate, part, metadata={"format": "pt"})


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """`atomic_path` that also knows how safetensors and torch report a failed write (not as OSError)."""
    with atomic_path(path) as part:
        try:
            yield part
        except (SafetensorError, RuntimeError) as error:
            text = str(error).splitlines()[0]
            if not any(sign in text for sign in WRITE_FAILURES):
                raise
            raise EnvironmentProblem(f"{path}: cannot be written ({text})") from error


def _load_pickle(path: Path) -> object:
    """Weights-only unpickling, memory-mapped where the format allows it (not in files of torch before 1.6)."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        culprit = reason.split("Unsupported global: GLOBAL ")[-1].split(" ")[0] if "GLOBAL" in reason else ""
        holds = f"it holds {culprit}, which" if culprit else "its content"
        raise CheckpointError(f"{path}: refused: {holds} is not plain weights; convert it to safetensors") from error
    except Exception as error:  # damaged pickles raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: damaged or no weights file ({reason})") from error


def _state_within(content: object, path: Path) -> dict[str, Tensor]:
    """The original saves {"model": …, "optimizer": …}, others {"state_dict": …} or the bare state."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds no state dict")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: '{name}' is no tensor; a state dict is names and tensors")
    return dict(content)


def _stored_name(name: str) -> str:
    return name.removesuffix(".scale")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must be a JSON object")
    return values
