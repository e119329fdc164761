"""Which model a name, path, URL or hub id means, and its file: on disk, in the cache, or to be downloaded. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import blip_lite
from blip.checkpoint import catalogue
from blip.checkpoint.catalogue import Entry
from blip.io import fetch
from blip_lite.errors import CheckpointError, OfflineError, UnknownModel

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
WEIGHTS, CONFIG = "model.safetensors", "config.json"
HF_WEIGHTS = (WEIGHTS, "pytorch_model.bin")
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "NOTICE.md", "README.md")  # copied with a model

ASSETS = (blip_lite.ASSETS, Path(__file__).parent.parent / "assets")  # the bundled models
RUN_MODELS = ("final", "best", "last")  # of a training run, first found first
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ((CONFIG,), HF_WEIGHTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """Where a model is. `path` is None for random weights and for what would have to be downloaded."""

    name: str
    path: Path | None
    entry: Entry | None = None
    url: str = ""
    hub_id: str = ""


def locate(name_or_path: str | Path, cache_dir: Path | None = None) -> Located:
    """Which model is meant: a catalogue name wins over a path (write ./tiny for a folder of that name)."""
    name = str(name_or_path)
    if name in catalogue.BY_NAME and not HUB_ID.fullmatch(name):
        return _of_entry(catalogue.find(name), cache_dir)
    path = Path(name_or_path).expanduser()
    if path.exists():
        return Located(name=name, path=_of_run(path))
    if name.startswith(("http://", "https://")):
        return _of_url(name, cache_dir)
    if imported(name):
        return Located(name=name, path=imported(name))
    if path.suffix in SUFFIXES or name.count("/") > 1 or name.startswith((".", "~")):
        raise CheckpointError(f"{name}: no such file or folder")
    if HUB_ID.fullmatch(name):
        return Located(name=name, path=None, hub_id=name, entry=catalogue.BY_NAME.get(name))
    return _of_entry(catalogue.find(name), cache_dir)


def _of_run(path: Path) -> Path:
    """The model of a folder that `blip train` made; any other path as it is."""
    if (path / "train.jsonl").is_file():
        return next((path / name for name in RUN_MODELS if (path / name / CONFIG).is_file()), path)
    return path


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
            return fetch.fetch_hub(found.hub_id, HUB_FILES, offline=offline, cache=cache_dir)
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


def imported(name: str) -> Path | None:
    """The folder of a model that 'blip models import' gave this name."""
    folder = imported_dir() / name
    return folder if name and Path(name).name == name and (folder / CONFIG).is_file() else None


def imported_dir() -> Path:
    return fetch.home_dir() / "models"


def cached_entry(entry: Entry, cache_dir: Path | None = None) -> Path:
    return fetch.cache_dir(cache_dir) / "checkpoints" / entry.file_name


def cached_url(url: str, cache_dir: Path | None = None) -> Path:
    """Two URLs never share a file, also when their last parts are equal."""
    return fetch.cache_dir(cache_dir) / "checkpoints" / fetch.file_name_of(url)


def _of_entry(entry: Entry, cache_dir: Path | None) -> Located:
    if entry.source == "bundled":
        folders = (assets / entry.location for assets in ASSETS)
        return Located(name=entry.name, path=next(filter(Path.is_dir, folders), None), entry=entry)
    if entry.source == "random":
        return Located(name=entry.name, path=None, entry=entry)
    return Located(name=entry.name, path=fetch.existing(cached_entry(entry, cache_dir)), entry=entry)


def _of_url(url: str, cache_dir: Path | None) -> Located:
    try:
        return _of_entry(catalogue.find(url), cache_dir)
    except UnknownModel:
        return Located(name=url, path=fetch.existing(cached_url(url, cache_dir)), url=url)


def _not_cached(name: str) -> OfflineError:
    return OfflineError(
        f"model '{name}' is not cached and --offline is set; run 'blip models get {name}' once, "
        "or leave out -m to use the bundled model"
    )


def is_cached(entry: Entry) -> bool:
    """Whether the model works offline."""
    if entry.source == "random":
        return True
    if entry.source == "hub":
        return fetch.is_in_hub_cache(entry.location, HUB_FILES)
    return _of_entry(entry, None).path is not None
