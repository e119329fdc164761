"""From a name, path, URL or hub id to a model: found, read, renamed, checked, placed. Nothing is skipped silently."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blip.checkpoint import adapt, files, state_dict
from blip.checkpoint.locate import Located, locate, obtain
from blip.checkpoint.processor import with_own_vocabulary
from blip.io import fetch
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, Family, random_tiny_config, with_image_size
from blip_lite.errors import CheckpointMismatch

if TYPE_CHECKING:
    from blip.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model on the CPU, in evaluation mode, float32.

    training: momentum weights and queues that the file held. vocab: the vocabulary file, if not the bundled one.
    """

    model: BlipModel
    config: BlipConfig
    tokenizer: Tokenizer
    name: str
    training: dict[str, Tensor]
    vocab: Path | None = None


def load(
    name_or_path: str | Path,
    *,
    image_size: int | None = None,
    offline: bool | None = None,
    cache_dir: Path | None = None,
    strict: bool = True,
    progress: fetch.Progress | None = None,
) -> Loaded:
    """A model by catalogue name, imported name, file, folder, URL or hub id.

    image_size: pixels; position embeddings are resized to it (logged). strict=False: missing weights stay random and
    unknown ones are left out, each with a warning. Raises UnknownModel, OfflineError, CheckpointMismatch, ….
    """
    found = locate(name_or_path, cache_dir)
    if found.entry is not None and found.entry.source == "random":
        return random_tiny(found.entry.family, image_size=image_size)
    stored = files.read(obtain(found, offline=offline, cache_dir=cache_dir, progress=progress))
    config, state, training = under_our_names(stored, found, strict=strict)
    if image_size is not None and image_size != config.vision.image_size:
        config = with_image_size(config, image_size)
        state, training = state_dict.resize_positions(state, config), state_dict.resize_positions(training, config)
    model = build(config, state, found.name, strict=strict)
    return Loaded(
        model=model,
        config=config,
        tokenizer=_tokenizer(config, stored.folder),
        name=found.name,
        training=training,
        vocab=vocabulary(stored, config),
    )


def vocabulary(stored: files.Stored, config: BlipConfig) -> Path | None:
    """The vocabulary file beside the weights; None for the bundled vocabulary."""
    path = stored.folder / config.vocab if stored.folder is not None else None
    return path if path is not None and path.is_file() else None


def random_tiny(family: Family = "pretrain", *, seed: int = 0, image_size: int | None = None) -> Loaded:
    """A very small model with seeded random weights: no files, every family, meaningless output."""
    config = random_tiny_config(family)
    if image_size is not None:
        config = with_image_size(config, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipModel(config).eval()
    return Loaded(model=model, config=config, tokenizer=_tokenizer(config, None), name="random-tiny", training={})


def under_our_names(
    stored: files.Stored, found: Located, *, strict: bool = True
) -> tuple[BlipConfig, dict[str, Tensor], dict[str, Tensor]]:
    """Config, weights and training state of what was read, whatever the layout."""
    layout = state_dict.detect_layout(stored.state)
    config = stored.config or with_own_vocabulary(
        state_dict.infer_config(stored.state, stored.hf_config), stored.folder
    )
    if found.entry is not None and found.entry.source == "url" and found.entry.family != config.family:
        raise CheckpointMismatch(
            f"model '{found.name}': the file holds a '{config.family}' model; must be '{found.entry.family}'"
        )
    ours, training = state_dict.to_ours(stored.state, config, layout, strict=strict)
    return config, ours, training


def build(config: BlipConfig, state: Mapping[str, Tensor], name: str, *, strict: bool = True) -> BlipModel:
    """A model of `config` with these weights as float32, in evaluation mode; every name and shape is checked."""
    wanted = adapt.expected_shapes(config)
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if (missing or unexpected) and strict:
        raise state_dict.mismatch(f"model '{name}'", missing, unexpected)
    for key, tensor in state.items():
        if key in wanted and tensor.shape != wanted[key]:
            raise CheckpointMismatch(f"model '{name}': {key} is {list(tensor.shape)}; must be {list(wanted[key])}")
    weights = {key: tensor.float() for key, tensor in state.items() if key in wanted}
    if missing:
        warnings.warn(str(state_dict.mismatch(f"model '{name}'", missing, unexpected)) + "; left random", stacklevel=2)
        model = BlipModel(config)
    else:
        model = adapt.without_values(config)
    model.load_state_dict(weights, strict=not missing, assign=True)
    return model.eval()


def start_from(loaded: Loaded, config: BlipConfig) -> tuple[BlipModel, adapt.Adapted]:
    """A model of another family that starts from loaded weights; what they lack keeps its random initial values."""
    adapted = adapt.for_family(loaded.model.state_dict(), loaded.config, config)
    model = BlipModel(config)
    model.load_state_dict(adapted.state, strict=False)
    return model, adapted


def _tokenizer(config: BlipConfig, folder: Path | None) -> Tokenizer:
    from blip.tokenizer import Tokenizer

    return Tokenizer.from_config(config, folder)
