"""Models on this machine: their records, removal and verification. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from blip.checkpoint import sums
from blip.checkpoint.catalogue import ENTRIES, Entry
from blip.checkpoint.locate import (
    CONFIG,
    LICENCE_FILES,
    WEIGHTS,
    cached_entry,
    cached_url,
    imported,
    imported_dir,
    imported_names,
    is_cached,
    locate,
)
from blip.io import fetch
from blip_lite.errors import CheckpointError, UsageError
from blip_lite.text_files import load_json_object, read_text


def list_records() -> list[dict[str, Any]]:
    """Return the records of all models in the catalogue and of imported ones."""
    return [*map(entry_record, ENTRIES), *map(_imported_record, imported_names())]


def entry_record(entry: Entry) -> dict[str, Any]:
    """Return the record of a catalogue entry."""
    path = locate(entry.name).path
    return {
        "name": entry.name,
        "family": entry.family,
        "vit": entry.vit,
        "image_size": entry.image_size,
        "source": entry.source,
        "location": entry.location,
        "data": entry.data,
        "scores": entry.scores,
        "licence": entry.licence,
        **_size(path, entry.megabytes),
        "sha256": entry.sha256,
        "note": entry.note,
        "cached": is_cached(entry),
    }


def _imported_record(name: str) -> dict[str, Any]:
    folder = imported_dir() / name
    record = {
        "name": name,
        "family": "",
        "vit": "",
        "image_size": "",
        "source": "imported",
        "scores": "",
        "licence": _licence_of(folder),
        **_size(folder),
        "note": "",
        "cached": True,
    }
    try:
        config = load_json_object(folder / CONFIG)
        return record | {"family": config["family"], "image_size": config["vision"]["image_size"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        return record | {"note": f"{CONFIG} is damaged: {error}"}


def _licence_of(folder: Path) -> str:
    """The licence of a folder that is not in the catalogue: the file that states it."""
    return next((f"see {folder / name}" for name in LICENCE_FILES if (folder / name).is_file()), "not stated")


def _terms(licence: Path) -> list[str]:
    """The items of a bundled model's licence: the data sets and weights that it was made from, with their terms."""
    return [line.removeprefix("- ") for line in read_text(licence).splitlines() if line.startswith("- ")]


def _size(path: Path | None, megabytes: int | None = None) -> dict[str, Any]:
    """Size in MB of a file or folder, else of the download, as an estimate."""
    if path is None:
        return {"size_mb": megabytes, "size_is_estimate": megabytes is not None}
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {"size_mb": round(sum(file.stat().st_size for file in files) / 1e6, 1), "size_is_estimate": False}


def model_record(name: str) -> dict[str, Any]:
    """Return all that is known of a model by name, file or folder: its entry, path and config."""
    location = locate(name)
    record = {"name": name} if location.entry is None else entry_record(location.entry)
    path = location.path
    if location.entry is None and path is not None:
        record |= {"licence": _licence_of(path if path.is_dir() else path.parent), **_size(path)}
    record |= {"path": str(path) if path else None}
    if location.entry is not None and path is None and location.entry.source == "url":
        record |= {"place": str(cached_entry(location.entry))}
    if path is not None and path.is_dir():
        licence = next((path / name for name in LICENCE_FILES[:2] if (path / name).is_file()), None)
        record |= {"licence_file": None if licence is None else str(licence)}
        if licence is not None and location.entry is not None and location.entry.source == "bundled":
            record |= {"terms": _terms(licence)}
        if (path / CONFIG).is_file():
            try:
                record |= {"config": load_json_object(path / CONFIG)}
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{path / CONFIG}: {error}") from error
    return record


def remove(name: str) -> str:
    """Remove a model from the cache or the imported ones; return what was removed. Raises `UsageError`."""
    folder = imported(name)
    if folder is not None:
        shutil.rmtree(folder)
        return str(folder)
    location = locate(name)
    if location.hub_id:
        raise UsageError(f"model '{name}' is in the hub's own cache; 'hf cache rm model/{name}' removes it")
    if location.entry is not None and location.entry.source != "url":
        raise UsageError(f"model '{name}' is part of the package and cannot be removed")
    if location.entry is None and not location.url:
        raise UsageError(f"{name} is your own file; delete it yourself")
    path = cached_entry(location.entry) if location.entry is not None else cached_url(location.url)
    return f"{name}, {fetch.remove(path) / 1e6:.1f} MB freed"


def verify(name: str) -> str:
    """Return the SHA-256 of a model's weights after comparing it with the recorded one.

    Raises `CheckpointError` if the model is not on this machine, has no recorded sum, or has changed.
    """
    location = locate(name)
    path = location.path
    if location.hub_id:
        raise CheckpointError(f"model '{name}': not compared; the hub's cache keeps no SHA-256 for this command")
    if location.entry is not None and location.entry.source == "random":
        raise CheckpointError(f"model '{name}': nothing to compare; its weights are random and not in a file")
    if path is None:
        raise CheckpointError(f"model '{name}' is not cached; 'blip models get {name}' fetches it")
    published = location.entry.sha256 if location.entry is not None else None
    if path.is_dir() and (path / sums.SUMS).is_file():
        return sums.verify(path)[WEIGHTS]
    if path.is_dir() or not (published or fetch.recorded_sha256(path)):
        raise CheckpointError(f"model '{name}': not compared; no SHA-256 is recorded for {path}")
    return fetch.verify(path, published)
