"""Folders that Hugging Face `datasets` writes with `save_to_disk`: Arrow files and a list of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_lite.errors import UsageError
from blip_lite.text_files import load_json

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether a folder is a saved dataset, or several under their split names."""
    return (folder / _SPLITS).is_file() or ((folder / _STATE).is_file() and any(folder.glob("*.arrow")))


def arrow_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a saved dataset in order. Raises `UsageError`, also for one with several splits."""
    if (folder / _SPLITS).is_file():
        splits = _load(folder / _SPLITS, "splits")
        if len(splits) != 1:
            choices = ", ".join(str(folder / str(name)) for name in splits) or "none"
            raise UsageError(f"{folder}: saved dataset with {len(splits)} splits; name one: {choices}")
        folder /= str(splits[0])
    try:
        return [folder / str(item["filename"]) for item in _load(folder / _STATE, "_data_files")]
    except (TypeError, KeyError) as error:
        raise UsageError(f"{folder / _STATE}: must list Arrow files in '_data_files'") from error


def _load(path: Path, name: str) -> list[Any]:
    try:
        values = load_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get(name), list):
        raise UsageError(f"{path}: must be an object with a list '{name}'")
    if name == "_data_files" and values.get("_indices_data_files"):
        raise UsageError(f"{path}: saved dataset with an index of chosen rows; call flatten_indices() before saving")
    items: list[Any] = values[name]
    return items
