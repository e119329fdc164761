"""A folder for one explanation: a picture for each word, their mean, the numbers, and what they are about."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blip.io import atomic
from blip_lite.errors import UsageError
from blip_lite.overlay import heat, overlay, scaled
from blip_lite.results import Explanation

Tokens = Literal["all", "words", "mean"]
SUMMARY, NUMBERS = "explain.json", "map.npz"
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def write(
    folder: Path,
    found: Explanation,
    *,
    tokens: Tokens = "words",
    size: int = 480,
    image_format: str = "png",
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes NN_token.png for each token or word, mean.png, map.npz and, last, explain.json; gives what is in that.

    map.npz: `tokens`, `maps` [T, H, W] in [0, 1] each for itself, at the pictures' size; `grid` [T, g, g] as computed,
    comparable among themselves. size: of the pictures' longer side. about: goes into the record first.
    """
    if image_format not in FORMATS:
        raise UsageError(f"image format '{image_format}'; must be one of {', '.join(FORMATS)}")
    if found.image is None:
        raise UsageError("this explanation has no image to draw on")
    clear(folder)
    shown = found if tokens == "all" else found.words()
    names = [] if tokens == "mean" else [_name(i, token, image_format) for i, token in enumerate(shown.tokens)]
    pictures = dict(zip(names, shown.maps, strict=False)) | {f"mean.{image_format}": found.mean()}
    for name, grid in pictures.items():
        with atomic.atomic_path(folder / name) as path:
            overlay(found.image, grid, size).save(path, FORMATS[image_format])
    if tokens == "mean":
        shown = replace(found, tokens=("mean",), maps=found.mean()[None])
    width, height = scaled(found.image, size).size
    _write_numbers(folder / NUMBERS, shown, (width, height))
    record = {
        "schema": "explain/1",
        **about,
        **shown.to_dict(),
        "files": [*pictures, NUMBERS],
        "width": width,
        "height": height,
    }
    atomic.write_text(folder / SUMMARY, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return record


def _write_numbers(path: Path, shown: Explanation, size: tuple[int, int]) -> None:
    maps = np.zeros((len(shown.tokens), size[1], size[0]), dtype=np.float32)
    for i, grid in enumerate(shown.maps):
        maps[i] = heat(grid, size)
    tokens = np.array(shown.tokens, dtype=np.str_)
    with atomic.atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, tokens=tokens, maps=maps, grid=shown.maps)


def clear(folder: Path) -> None:
    """Removes the files that an explanation written there before has named, and nothing else."""
    try:
        old = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in [*old, SUMMARY]:
        if isinstance(name, str) and name == Path(name).name:
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def _name(number: int, token: str, image_format: str) -> str:
    """A file name that every system takes: `02_dog.png`; marks have none but their number and "token"."""
    word = re.sub(r"[^\w-]+", "", token)[:40] or "token"
    return f"{number:02d}_{word}.{image_format}"
