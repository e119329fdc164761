"""From a name, path, URL or hub id to a model: found, read, renamed, checked and placed. Nothing is skipped silently."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blip.checkpoint import adapt, catalogue, files, keys
from blip.checkpoint.catalogue import Entry
from blip.config import BlipConfig, Family, random_tiny_config, with_image_size
from blip.errors import CheckpointError, CheckpointMismatch, OfflineError, UnknownModel
from blip.io import fetch
from blip.model.blip import BlipModel

if TYPE_CHECKING:
    from blip.tokenizer import Tokenizer

ASSETS = Path(__file__).parent.parent / "assets"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("config.json", "model.safetensors|pytorch_model.bin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model on the CPU, in evaluation mode, float32. `training`: momentum weights and queues the file held."""

    model: BlipModel
    config: BlipConfig
    tokenizer: Tokenizer
    name: str
    training: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """Where a model is. `path` is None for random weights and for what would have to be downloaded."""

    name: str
    path: Path | None
    entry: Entry | None = None
    url: str = ""
    hub_id: str = ""


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
        state, training = keys.resize_positions(state, config), keys.resize_positions(training, config)
    model = build(config, state, found.name, strict=strict)
    return Loaded(
        model=model, config=config, tokenizer=_tokenizer(config, stored.folder), name=found.name, training=training
    )


def random_tiny(family: Family = "pretrain", *, seed: int = 0, image_size: int | None = None) -> Loaded:
    """A very small model with seeded random weights: no files, every family, meaningless output."""
    config = random_tiny_config(family)
    if image_size is not None:
        config = with_image_size(config, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipModel(config).eval()
    return Loaded(model=model, config=config, tokenizer=_tokenizer(config, None), name="random-tiny", training={})


def locate(name_or_path: str | Path, cache_dir: Path | None = None) -> Located:
    """Which model is meant: a catalogue name wins over a path (write ./tiny for a folder of that name)."""
    name = str(name_or_path)
    if name in catalogue.BY_NAME and not HUB_ID.fullmatch(name):
        return _of_entry(catalogue.find(name), cache_dir)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return Located(name=name, path=path)
    if name.startswith(("http://", "https://")):
        return Located(name=name, path=fetch.existing(cached_url(name, cache_dir)), url=name)
    if imported(name):
        return Located(name=name, path=imported(name))
    if HUB_ID.fullmatch(name) and path.suffix not in files.SUFFIXES:
        return Located(name=name, path=None, hub_id=name, entry=catalogue.BY_NAME.get(name))
    try:
        return _of_entry(catalogue.find(name), cache_dir)
    except UnknownModel:
        if "/" in name or path.suffix in files.SUFFIXES:
            raise CheckpointError(f"{name}: no such file or folder") from None
        raise


def obtain(
    found: Located,
    *,
    offline: bool | None = None,
    cache_dir: Path | None = None,
    progress: fetch.Progress | None = None,
) -> Path:
    """The file or folder of a model; downloads it when it is not there and that is allowed."""
    offline = fetch.is_offline(offline)
    if found.hub_id:
        try:
            return fetch.fetch_hub(found.hub_id, HUB_FILES, offline=offline, cache_dir=cache_dir)
        except OfflineError:
            raise _not_cached(found.name) from None
    entry = found.entry
    if entry is not None and entry.source == "bundled":
        if found.path is None:
            raise CheckpointError(f"model '{entry.name}' is missing from this installation; install the package anew")
        return found.path
    url = entry.location if entry is not None else found.url
    if not url:
        if found.path is None:
            raise CheckpointError(f"model '{found.name}' has no file")
        return found.path
    if found.path is None and offline:
        raise _not_cached(found.name)
    target = cached_entry(entry, cache_dir) if entry is not None else cached_url(url, cache_dir)
    return fetch.fetch(
        url, target, sha256=entry.sha256 if entry is not None else None, offline=offline, progress=progress
    )


def under_our_names(
    stored: files.Stored, found: Located, *, strict: bool = True
) -> tuple[BlipConfig, dict[str, Tensor], dict[str, Tensor]]:
    """Config, weights and training state of what was read, whatever the layout."""
    layout = keys.detect_layout(stored.state)
    config = stored.config or keys.infer_config(stored.state, stored.hf_config)
    if found.entry is not None and found.entry.source == "url" and found.entry.family != config.family:
        raise CheckpointMismatch(
            f"model '{found.name}': the file holds a '{config.family}' model; must be '{found.entry.family}'"
        )
    state = stored.state if strict else _lenient(stored.state, config, layout)
    ours, training = keys.to_ours(state, config, layout)
    return config, ours, training


def build(config: BlipConfig, state: Mapping[str, Tensor], name: str, *, strict: bool = True) -> BlipModel:
    """A model of `config` with these weights as float32, in evaluation mode; every name and shape is checked."""
    wanted = adapt.expected_shapes(config)
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if (missing or unexpected) and strict:
        raise keys.mismatch(f"model '{name}'", missing, unexpected)
    for key, tensor in state.items():
        if key in wanted and tensor.shape != wanted[key]:
            raise CheckpointMismatch(
                f"model '{name}': {key} is {list(tensor.shape)}; must be {list(wanted[key])}"
            )
    weights = {key: tensor.float() for key, tensor in state.items() if key in wanted}
    if missing:
        warnings.warn(str(keys.mismatch(f"model '{name}'", missing, unexpected)) + "; left random", stacklevel=2)
        model = BlipModel(config)
    else:
        with torch.device("meta"):
            model = BlipModel(config)
    model.load_state_dict(weights, strict=not missing, assign=True)
    return model.eval()


def start_from(loaded: Loaded, config: BlipConfig) -> tuple[BlipModel, adapt.Adapted]:
    """A model of another family that starts from loaded weights; what they lack keeps its random initial values."""
    adapted = adapt.for_family(loaded.model.state_dict(), loaded.config, config)
    model = BlipModel(config)
    model.load_state_dict({name: tensor.clone() for name, tensor in adapted.state.items()}, strict=False)
    return model, adapted


def imported(name: str) -> Path | None:
    """The folder of a model that 'blip models import' gave this name."""
    folder = imported_dir() / name
    return folder if name and Path(name).name == name and (folder / files.CONFIG).is_file() else None


def imported_dir() -> Path:
    return fetch.home_dir() / "models"


def cached_entry(entry: Entry, cache_dir: Path | None = None) -> Path:
    return fetch.cache_dir(cache_dir) / "checkpoints" / entry.file_name


def cached_url(url: str, cache_dir: Path | None = None) -> Path:
    """Two URLs never share a file, also when their last parts are equal."""
    return fetch.cache_dir(cache_dir) / "checkpoints" / fetch.file_name_of(url)


def _of_entry(entry: Entry, cache_dir: Path | None) -> Located:
    if entry.source == "bundled":
        folder = ASSETS / entry.location
        return Located(name=entry.name, path=folder if folder.is_dir() else None, entry=entry)
    if entry.source == "random":
        return Located(name=entry.name, path=None, entry=entry)
    return Located(name=entry.name, path=fetch.existing(cached_entry(entry, cache_dir)), entry=entry)


def _not_cached(name: str) -> OfflineError:
    return OfflineError(
        f"model '{name}' is not cached and --offline is set; run 'blip models get {name}' once, "
        "or leave out -m to use the bundled model"
    )


def _lenient(state: Mapping[str, Tensor], config: BlipConfig, layout: keys.Layout) -> dict[str, Tensor]:
    raise NotImplementedError


def _tokenizer(config: BlipConfig, folder: Path | None) -> Tokenizer:
    from blip.tokenizer import Tokenizer

    return Tokenizer.from_config(config, folder)
