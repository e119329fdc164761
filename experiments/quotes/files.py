"""Files that quote the bundled models other than as outputs of commands, and what they should contain."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from experiments.quotes import licences, photos, tiny, vqa
from experiments.quotes.marks import MARKED, Values, renew_text
from experiments.quotes.results import ROOT

TINY, TINY_VQA = ROOT / "lite/src/blip_lite/assets/tiny", ROOT / "src/blip/assets/tiny-vqa"
FOLDERS = {"tiny": TINY, "tiny-vqa": TINY_VQA}
QUOTING = ("*.md", "docs/**/*.md", "lite/**/*.md", "src/**/*.md", "src/**/*.html")
CARD = "README.md"  # of a model, in its folder; it is part of its size


def megabytes(model: str) -> str:
    """Size of a model's folder without its card."""
    size = sum(path.stat().st_size for path in FOLDERS[model].iterdir() if path.name != CARD)
    return f"{size / 1e6:.0f} MB"


def parameters(model: str) -> str:
    """Number of parameters in millions, from the header of the weights; scales of 8-bit rows are not counted."""
    with (FOLDERS[model] / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    sizes = [math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__" and name[-6:] != ".scale"]
    return f"{sum(sizes) / 1e6:.1f} million"


def word_pieces(model: str) -> str:
    return f"{json.loads((FOLDERS[model] / 'config.json').read_text(encoding='utf-8'))['text']['vocab_size']:,}"


def fact(model: str, name: str) -> str:
    return f"{licences.read('models.toml')[model][name]:,}"


def rounded_photos(model: str) -> str:
    return f"{round(licences.read('models.toml')[model]['photos'], -2):,} photos"


VALUES: Values = {
    **{
        f"{model}-{name}": partial(function, model)
        for model in FOLDERS
        for name, function in (
            ("size", megabytes),
            ("parameters", parameters),
            ("pieces", word_pieces),
            ("photos", rounded_photos),
            ("terms", licences.bullets),
        )
    },
    "tiny-photo-count": partial(fact, "tiny", "photos"),
    "tiny-caption-count": partial(fact, "tiny", "captions"),
    "tiny-vqa-photo-count": partial(fact, "tiny-vqa", "photos"),
    "tiny-vqa-question-count": partial(fact, "tiny-vqa", "questions"),
    "tiny-scores": tiny.scores,
    "tiny-changed": tiny.changed,
    "tiny-reliability": tiny.reliability,
    "tiny-classes": tiny.classes,
    "tiny-measurements": tiny.measurements,
    "first-weights": tiny.first_weights,
    "tiny-cider": partial(tiny.number, "{:.3f}", f"captions/{tiny.FLICKR}/cider"),
    "tiny-coco-cider": partial(tiny.number, "{:.3f}", f"captions/{tiny.COCO}/cider"),
    "tiny-named": partial(tiny.number, "{:.0%}", "objects/names_a_boxed_object"),
    "tiny-vqa-scores": vqa.scores,
    "tiny-vqa-measurements": vqa.measurements,
    "tiny-vqa-generated": partial(vqa.accuracy, vqa.GENERATED),
    "tiny-vqa-real": partial(vqa.accuracy, vqa.REAL),
    "tiny-vqa-real-count": partial(vqa.count, vqa.REAL),
    "tiny-vqa-real-blind": partial(vqa.question_alone, vqa.REAL),
    "photos": photos.grid,
    "photos-named": partial(photos.named, True),
    "examples-named": partial(photos.named, False),
}


def quoting() -> list[Path]:
    """Files with marked parts, and the licences of the models."""
    files = {path for pattern in QUOTING for path in ROOT.glob(pattern) if MARKED.search(path.read_text("utf-8"))}
    return [*sorted(files), *(folder / "LICENSE" for folder in FOLDERS.values())]


def renewed(path: Path) -> str:
    """The text that a file should contain."""
    if path.name == "LICENSE":
        return licences.licence(path.parent.name)
    return renew_text(path.read_text(encoding="utf-8"), VALUES)


def names() -> Iterator[str]:
    """Names of the values that some file quotes."""
    for path in quoting():
        yield from (match[1] for match in MARKED.finditer(path.read_text(encoding="utf-8")))
