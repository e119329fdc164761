"""Models on this machine: their records, removal and verification. No torch."""

from __future__ import annotations

import shutil
from typing import Any

from blip.checkpoint.catalogue import ENTRIES, Entry
from blip.checkpoint.locate import cached_entry, cached_url, imported, imported_dir, imported_names, is_cached, locate
from blip.io import fetch
from blip_lite.errors import CheckpointError, UsageError
from blip_lite.text_files import load_json


def list_records() -> list[dict[str, Any]]:
    """Return the records of all models in the catalogue and of imported ones."""
    return [*map(entry_record, ENTRIES), *map(_imported_record, imported_names())]


def entry_record(entry: Entry) -> dict[str, Any]:
    """Return the record of a catalogue entry."""
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
        "sha256": entry.sha256,
        "note": entry.note,
        "cached": is_cached(entry),
    }


def _imported_record(name: str) -> dict[str, Any]:
    config = load_json(imported_dir() / name / "config.json")
    return {
        "name": name,
        "family": config["family"],
        "vit": "",
        "scores": "",
        "image_size": config["vision"]["image_size"],
        "source": "imported",
        "cached": True,
    }


def model_record(name: str) -> dict[str, Any]:
    """Return all that is known of a model by name, file or folder: its entry, path and config."""
    location = locate(name)
    record = {"name": name} if location.entry is None else entry_record(location.entry)
    record |= {"path": str(location.path) if location.path else None}
    if location.path is not None and location.path.is_dir():
        record |= {"config": load_json(location.path / "config.json")}
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


def verify(name: str) -> str | None:
    """Return the SHA-256 of a model's file after comparing it with the recorded one, None if there is no file.

    Raises `CheckpointError` if the model is not cached or its file has changed.
    """
    location = locate(name)
    if location.hub_id or (location.entry is not None and location.entry.source == "random"):
        return None
    if location.path is None:
        raise CheckpointError(f"model '{name}' is not cached; 'blip models get {name}' fetches it")
    if location.path.is_dir():
        return fetch.verify(location.path / "model.safetensors")
    if location.entry is None:
        return fetch.verify(location.path, None)
    return fetch.verify(cached_entry(location.entry), location.entry.sha256)
