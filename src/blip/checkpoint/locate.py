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
from blip_lite.text_files import load_json_object

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
WEIGHTS, CONFIG = "model.safetensors", "config.json"
INDEX = ".index.json"  # ending of the index of a model in shards
HF_WEIGHTS = (WEIGHTS, f"{WEIGHTS}{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "NOTICE.md", "README.md")  # copied with a model

ASSETS = (blip_lite.ASSETS, Path(__file__).parent.parent / "assets")  # the bundled models
RUN_MODELS = ("final", "best", "last")  # in the folder of a training run, in order of preference
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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
    published = catalogue.find_file(path.name)
    if published is not None and path.name == name:
        return _of_entry(published, cache_dir)
    if path.suffix.lower() in SUFFIXES or name.count("/") > 1 or name.startswith((".", "~")):
        hint = f"; the catalogue has it as '{published.name}'" if published is not None else ""
        raise CheckpointError(f"{name}: no such file or folder{hint}")
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
    log: fetch.Log | None = None,
) -> Path:
    """The file or folder of a model, downloaded if necessary and allowed. log: called with each failed attempt."""
    offline = fetch.is_offline(offline)
    if located.hub_id:
        try:
            return fetch_hub_model(located.hub_id, CONFIG, offline=offline, cache=cache_dir)
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
        url, target, sha256=entry.sha256 if entry is not None else None, offline=offline, progress=progress, log=log
    )


def find_weights(folder: Path) -> Path | None:
    """The weights file of a model folder, or the index of its shards; None if it has neither."""
    return next((folder / name for name in HF_WEIGHTS if (folder / name).is_file()), None)


def shard_names(index: Path) -> dict[str, str]:
    """Tensor name -> file name of its shard, in an index as Transformers writes it. Raises CheckpointError."""
    try:
        names = load_json_object(index).get("weight_map")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index}: {error}") from error
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: no weight_map; must map the names of tensors to files")
    for tensor, file in names.items():
        if not isinstance(file, str) or Path(file).name != file or Path(file).suffix not in SUFFIXES:
            raise CheckpointError(f"{index}: weight_map.{tensor} {file!r}; must be the name of a file in its folder")
    return names


def fetch_hub_model(hub_id: str, companion: str, *, offline: bool | None, cache: Path | None = None) -> Path:
    """The folder of a hub repository with the file `companion` and the weights, all shards of them if it has shards."""
    folder = fetch.fetch_hub(hub_id, ((companion,), HF_WEIGHTS), offline=offline, cache=cache)
    weights = find_weights(folder)
    if weights is not None and weights.name.endswith(INDEX):
        shards = sorted(set(shard_names(weights).values()))
        fetch.fetch_hub(hub_id, [(shard,) for shard in shards], offline=offline, cache=cache)
    return folder


def _is_in_hub_cache(hub_id: str) -> bool:
    if not fetch.is_in_hub_cache(hub_id, ((CONFIG,), HF_WEIGHTS)):
        return False
    try:
        fetch_hub_model(hub_id, CONFIG, offline=True)
    except CheckpointError:  # a shard is missing
        return False
    return True


def place_by_hand(located: Located) -> str:
    """The end of a message: where to place a file that was downloaded on another machine."""
    entry, url = located.entry, located.url or (located.entry.location if located.entry is not None else "")
    if located.hub_id or not url:
        return ""
    target = cached_entry(entry) if entry is not None else cached_url(url)
    return f"; or download {url} elsewhere and place it as {target}"


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
        f"model '{name}' is not cached and {fetch.offline_reason()}; run 'blip models get {name}' once, "
        "or leave out -m to use the bundled model"
    )


def is_cached(entry: Entry) -> bool:
    """Whether the model is available offline."""
    if entry.source == "random":
        return True
    if entry.source == "hub":
        return _is_in_hub_cache(entry.location)
    return _of_entry(entry, None).path is not None
