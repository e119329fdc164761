"""Folder of an explanation: one image per word, their mean, the maps as numbers, and a record."""

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
from blip_lite.explanation import Explanation, draw_overlay, resize_longer_side, resize_map
from blip_lite.text_files import load_json

Tokens = Literal["all", "words", "mean"]
SUMMARY, NUMBERS = "explain.json", "map.npz"
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


def write(
    folder: Path,
    explanation: Explanation,
    *,
    tokens: Tokens = "words",
    size: int = 480,
    image_format: str = "png",
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write NN_token.png for each token or word, mean.png, map.npz and, last, explain.json; return its record.

    map.npz holds `tokens`, `maps` [T, H, W] in [0, 1], each scaled separately, at the size of the images, and `grid`
    [T, g, g] as computed, comparable with each other. size: longer side of the images in pixels. about: first fields
    of the record. Raises UsageError for an unknown format or an explanation without its image.
    """
    if image_format not in FORMATS:
        raise UsageError(f"image format '{image_format}'; must be one of {', '.join(FORMATS)}")
    if explanation.image is None:
        raise UsageError("this explanation has no image to draw on")
    clear(folder)
    parts = explanation if tokens == "all" else explanation.words()
    names = [] if tokens == "mean" else [_file_name(i, token, image_format) for i, token in enumerate(parts.tokens)]
    images = dict(zip(names, parts.maps, strict=False)) | {f"mean.{image_format}": explanation.mean()}
    for name, grid in images.items():
        with atomic.atomic_path(folder / name) as path:
            draw_overlay(explanation.image, grid, size).save(path, FORMATS[image_format])
    if tokens == "mean":
        parts = replace(explanation, tokens=("mean",), maps=explanation.mean()[None])
    width, height = resize_longer_side(explanation.image, size).size
    _write_numbers(folder / NUMBERS, parts, (width, height))
    record = {
        "schema": "explain/1",
        **about,
        **parts.to_dict(),
        "files": [*images, NUMBERS],
        "width": width,
        "height": height,
    }
    atomic.write_text(folder / SUMMARY, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return record


def _write_numbers(path: Path, parts: Explanation, size: tuple[int, int]) -> None:
    maps = np.zeros((len(parts.tokens), size[1], size[0]), dtype=np.float32)
    for i, grid in enumerate(parts.maps):
        maps[i] = resize_map(grid, size)
    tokens = np.array(parts.tokens, dtype=np.str_)
    with atomic.atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, tokens=tokens, maps=maps, grid=parts.maps)


def clear(folder: Path) -> None:
    """Remove the files listed in the folder's explain.json, and nothing else."""
    try:
        names = load_json(folder / SUMMARY)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in [*names, SUMMARY]:
        if isinstance(name, str) and name == Path(name).name:
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def _file_name(index: int, token: str, image_format: str) -> str:
    """Portable file name such as `02_dog.png`; punctuation is named "token"."""
    word = re.sub(r"[^\w-]+", "", token)[:40] or "token"
    return f"{index:02d}_{word}.{image_format}"
