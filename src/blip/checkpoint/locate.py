"""Find the model of a name, path, URL or hub id, and obtain its file: from disk, cache or network. Needs no torch."""

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
RUN_MODELS = ("final", "best", "last")  # in the folder of a training run, in order of preference
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ((CONFIG,), HF_WEIGHTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """Location of a model. `path` is None for random weights and for files that are not downloaded yet."""

    name: str
    path: Path | None
    entry: Entry | None = None
    url: str = ""
    hub_id: str = ""


def locate(name_or_path: str | Path, cache_dir: Path | None = None) -> Located:
    """Find a model. A catalogue name takes precedence over a path (use ./tiny for a folder of that name)."""
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
    """The model in a folder of `blip train`; any other path is returned unchanged."""
    if (path / "train.jsonl").is_file():
        return next((path / name for name in RUN_MODELS if (path / name / CONFIG).is_file()), path)
    return path


def obtain(
    located: Located,
    *,
    offline: bool | None = None,
    cache_dir: Path | None = None,
    progress: fetch.Progress | None = None,
) -> Path:
    """The file or folder of a model, downloaded if necessary and allowed."""
    offline = fetch.is_offline(offline)
    if located.hub_id:
        try:
            return fetch.fetch_hub(located.hub_id, HUB_FILES, offline=offline, cache=cache_dir)
        except OfflineError:
            raise _not_cached(located.name) from None
    entry = located.entry
    if entry is not None and entry.source == "bundled":
        if located.path is None:
            raise CheckpointError(f"model '{entry.name}' is missing from this installation; reinstall the package")
        return located.path
    url = entry.location if entry is not None else located.url
    if not url:
        if located.path is None:
            raise CheckpointError(f"model '{located.name}' has no file")
        return located.path
    if located.path is None and offline:
        raise _not_cached(located.name)
    target = cached_entry(entry, cache_dir) if entry is not None else cached_url(url, cache_dir)
    return fetch.fetch(
        url, target, sha256=entry.sha256 if entry is not None else None, offline=offline, progress=progress
    )


def imported(name: str) -> Path | None:
    """The folder of the model imported under this name by 'blip models import', or None."""
    folder = imported_dir() / name
    return folder if name and Path(name).name == name and (folder / CONFIG).is_file() else None


def imported_dir() -> Path:
    """Folder of imported models."""
    return fetch.home_dir() / "models"


def imported_names() -> list[str]:
    """Return the names of imported models, sorted."""
    return sorted(path.parent.name for path in imported_dir().glob("*/config.json"))


def cached_entry(entry: Entry, cache_dir: Path | None = None) -> Path:
    """The cache file of a catalogue entry."""
    return fetch.cache_dir(cache_dir) / "checkpoints" / entry.file_name


def cached_url(url: str, cache_dir: Path | None = None) -> Path:
    """The cache file of a URL; different URLs have different files, even if their last parts are equal."""
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
    """Whether the model is available offline."""
    if entry.source == "random":
        return True
    if entry.source == "hub":
        return fetch.is_in_hub_cache(entry.location, HUB_FILES)
    return _of_entry(entry, None).path is not None
