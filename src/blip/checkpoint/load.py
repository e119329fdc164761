"""Load a model by name, path, URL or hub id: locate, read, convert to the blip layout, check, build."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blip.checkpoint import adapt, files
from blip.checkpoint.hf import with_folder_vocabulary
from blip.checkpoint.infer import infer_config
from blip.checkpoint.locate import Located, locate, obtain
from blip.checkpoint.state_dict import detect_layout, mismatch, to_blip
from blip.checkpoint.weights_file import require_finite
from blip.io import fetch
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, Family, random_tiny_config, with_image_size
from blip_lite.errors import CheckpointMismatch

if TYPE_CHECKING:
    from blip.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Weights in the blip layout, with the dtypes of the file.

    training: momentum weights and queues of the file. folder: model folder, None for a single file.
    """

    name: str
    config: BlipConfig
    state: dict[str, Tensor]
    training: dict[str, Tensor]
    folder: Path | None = None

    @property
    def vocab(self) -> Path | None:
        """The vocabulary file; None for the bundled vocabulary."""
        path = self.folder / self.config.vocab if self.folder is not None else None
        return path if path is not None and path.is_file() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model on the CPU, in evaluation mode, float32.

    training: momentum weights and queues of the file. vocab: the vocabulary file; None for the bundled vocabulary.
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
    """Load a model by catalogue name, imported name, file, folder, URL or hub id.

    image_size: pixels; position embeddings are resized to it (logged). strict=False: missing weights stay random and
    unknown ones are ignored, each with a warning. Raises UnknownModel, OfflineError, CheckpointMismatch, ….
    """
    located = locate(name_or_path, cache_dir)
    if located.entry is not None and located.entry.source == "random":
        return random_tiny(located.entry.family, image_size=image_size)
    path = obtain(located, offline=offline, cache_dir=cache_dir, progress=progress)
    weights = _read(located, path, strict=strict)
    config, state, training = weights.config, weights.state, weights.training
    if image_size is not None and image_size != config.vision.image_size:
        config = with_image_size(config, image_size)
        state, training = adapt.resize_positions(state, config), adapt.resize_positions(training, config)
    return Loaded(
        model=build(config, state, weights.name, strict=strict),
        config=config,
        tokenizer=_tokenizer(config, weights.folder),
        name=weights.name,
        training=training,
        vocab=weights.vocab,
    )


def read_weights(name_or_path: str | Path, *, offline: bool | None = None) -> Weights:
    """Read the weights of any model that `load` accepts; all names and shapes are checked."""
    located = locate(name_or_path)
    if located.entry is not None and located.entry.source == "random":
        loaded = random_tiny(located.entry.family)
        return Weights(name=located.name, config=loaded.config, state=loaded.model.state_dict(), training={})
    weights = _read(located, obtain(located, offline=offline))
    build(weights.config, weights.state, weights.name)  # checks names and shapes
    return weights


def _read(located: Located, path: Path, *, strict: bool = True) -> Weights:
    stored = files.read(path)
    try:
        layout = detect_layout(stored.state)
        config = stored.config or with_folder_vocabulary(infer_config(stored.state, stored.hf_config), stored.folder)
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"{path}: {error}") from error
    if located.entry is not None and located.entry.source == "url" and located.entry.family != config.family:
        raise CheckpointMismatch(
            f"model '{located.name}': the file holds a '{config.family}' model; must be '{located.entry.family}'"
        )
    state, training = to_blip(stored.state, config, layout, strict=strict)
    for key, tensor in training.items():
        if tensor.is_floating_point():
            require_finite(tensor, f"model '{located.name}': {key}")
    return Weights(name=located.name, config=config, state=state, training=training, folder=stored.folder)


def random_tiny(family: Family = "pretrain", *, seed: int = 0, image_size: int | None = None) -> Loaded:
    """A very small model with seeded random weights: no files, all families, meaningless output."""
    config = random_tiny_config(family)
    if image_size is not None:
        config = with_image_size(config, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipModel(config).eval()
    return Loaded(model=model, config=config, tokenizer=_tokenizer(config, None), name="random-tiny", training={})


def build(config: BlipConfig, state: Mapping[str, Tensor], name: str, *, strict: bool = True) -> BlipModel:
    """A model of `config` with these weights as float32, in evaluation mode; all names and shapes are checked."""
    expected = adapt.expected_shapes(config)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if (missing or unexpected) and strict:
        raise mismatch(f"model '{name}'", missing, unexpected)
    for key, tensor in state.items():
        if key in expected and tensor.shape != expected[key]:
            raise CheckpointMismatch(f"model '{name}': {key} is {list(tensor.shape)}; must be {list(expected[key])}")
    named = {key: tensor for key, tensor in state.items() if key in expected}
    weights = {key: require_finite(tensor, f"model '{name}': {key}").float() for key, tensor in named.items()}
    if missing:
        warnings.warn(str(mismatch(f"model '{name}'", missing, unexpected)) + "; left random", stacklevel=2)
        model = BlipModel(config)
    else:
        model = adapt.build_on_meta(config)
    model.load_state_dict(weights, strict=not missing, assign=True)
    return model.eval()


def start_from(loaded: Loaded, config: BlipConfig) -> tuple[BlipModel, adapt.Adapted]:
    """A model of another family initialised from loaded weights; missing weights keep their random initial values."""
    adapted = adapt.for_family(loaded.model.state_dict(), loaded.config, config)
    model = BlipModel(config)
    model.load_state_dict(adapted.state, strict=False)
    return model, adapted


def _tokenizer(config: BlipConfig, folder: Path | None) -> Tokenizer:
    from blip.tokenizer import Tokenizer

    return Tokenizer.from_config(config, folder)
