"""Read and write model folders of this package and of Transformers, and write weights files (safetensors, `.pth`).

Files are written under a temporary name and then renamed; the same weights always give the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from blip.checkpoint.hf import hf_config, processor_files, to_json
from blip.checkpoint.locate import CONFIG, HF_WEIGHTS, LICENCE_FILES, SUFFIXES, WEIGHTS, find_weights
from blip.checkpoint.quantize import SUFFIX as SCALE_SUFFIX
from blip.checkpoint.state_dict import from_blip
from blip.checkpoint.tables import shared_names
from blip.checkpoint.unwrap import without_prefix
from blip.checkpoint.weights_file import read_state
from blip.io.atomic import atomic_path, write_text
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointError, ConfigError
from blip_lite.text_files import load_json_object
from blip_lite.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Content of a file or folder. A file without folder has neither config; `folder` may contain a vocabulary."""

    state: dict[str, Tensor]
    config: BlipConfig | None = None
    hf_config: dict[str, Any] | None = None
    folder: Path | None = None


def read(path: Path) -> Stored:
    """Read a weights file (with the config.json in the same folder, if there is one) or a model folder."""
    if path.is_dir():
        return read_folder(path)
    if path.name in HF_WEIGHTS and (path.parent / CONFIG).is_file():
        return read_folder(path.parent)
    return Stored(state=without_prefix(read_state(path), path))


def read_folder(folder: Path) -> Stored:
    """Read a folder of this package (config.json of `BlipConfig`) or of Transformers (`model_type` blip)."""
    weights = find_weights(folder)
    if weights is None or not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: not a model folder; needs {CONFIG} and {WEIGHTS}{_other_weights(folder)}")
    config, hf_values = read_config(folder)
    state = without_prefix(read_state(weights), weights)
    return Stored(state=state, config=config, hf_config=hf_values, folder=folder)


def read_config(folder: Path) -> tuple[BlipConfig | None, dict[str, Any] | None]:
    """Read config.json: the config of a folder of this package, or the values of Transformers' one."""
    path = folder / CONFIG
    try:
        values = load_json_object(path)
        if "model_type" not in values:
            return BlipConfig.from_dict(values), None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if values["model_type"] != "blip":
        raise CheckpointError(f"{path}: model_type '{values['model_type']}'; must be 'blip'")
    return None, values


def _other_weights(folder: Path) -> str:
    """A hint at weights files in a folder that is not a model folder."""
    if (folder / "adapter_config.json").is_file():
        return "; it holds a LoRA adapter: merge it into its base model first"
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return f"; it holds {', '.join(names[:3])}: pass that file" if names else ""


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
    if path.suffix.lower() == ".safetensors":
        write_safetensors(path, weights)
        return
    with atomic_path(path) as part, part.open("wb") as file:  # given a path, torch stores its name in the file
        torch.save({"model": weights}, file)


def copy_terms(source: Path | None, folder: Path) -> None:
    """Copy licence, notice and card of a model folder, whose terms hold for its weights in any layout."""
    for path in () if source is None else (source / name for name in LICENCE_FILES):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


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
