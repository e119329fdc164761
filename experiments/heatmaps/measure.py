"""Pointing game: is the peak of a word's heat-map inside a box of the thing that the word names?

    python experiments/heatmaps/measure.py --coco ../shared/data/coco-mini-00000.tar -o experiments/heatmaps/tiny.json

Compared with chance (the share of the photo inside these boxes), with the photo's centre, with a word for a thing that
is absent, and with shuffled weights of cross-attention. Intervals: bootstrap over photos.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blip.api import load
from blip.heatmaps import explain
from blip.io.image import prepare
from blip.metrics.caption import tokenize
from blip.model.blip import BlipModel
from blip_lite.explanation import Explanation, Method, resize_map
from blip_lite.model import Model

SYNONYMS = Path(__file__).parents[1] / "tiny" / "synonyms.json"  # COCO class -> words that name it
SEEDS, DRAWS = (0, 1, 2), 2000
Way = tuple[Method, int]


@dataclass
class Photo:
    """A photo and, for every class in it, a mask of the pixels inside its boxes."""

    number: int
    image: Image.Image
    captions: list[str]
    inside: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Aim:
    """Words of a text (None: the generated caption), and the pixels that they should point to."""

    kind: str
    text: str | None
    words: tuple[str, ...]
    inside: np.ndarray


@dataclass
class Figures:
    """Hits and shares by figure, each with the index of its photo."""

    rows: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def note(self, figure: str, photo: int, value: float) -> None:
        self.rows.setdefault(figure, []).append((photo, value))

    def summary(self) -> dict[str, dict[str, float]]:
        return {figure: self.interval(figure) for figure in sorted(self.rows)}

    def interval(self, figure: str) -> dict[str, float]:
        """Mean with interval and, except for chance, the difference to chance, row by row."""
        values, chance = (np.array(self.rows[f]) for f in (figure, f"{figure.split('/')[0]}/chance"))
        result = {"n": len(values), **_interval("", values[:, 0], values[:, 1])}
        if not figure.endswith("chance"):
            result |= _interval("above_chance", values[:, 0], values[:, 1] - chance[:, 1])
        return result

    def difference(self, first: str, second: str) -> dict[str, float]:
        """Difference of two figures of the same rows."""
        a, b = np.array(self.rows[first]), np.array(self.rows[second])
        return _interval("", a[:, 0], a[:, 1] - b[:, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    started, names = time.perf_counter(), json.loads(SYNONYMS.read_text())
    model, figures = load(args.model), Figures()
    default, ways = ("gradcam", model.config.text.num_layers // 2), all_ways(model)
    shuffled = {seed: with_shuffled_cross_attention(model.backend.module, seed) for seed in SEEDS}
    photos = 0
    with torch.inference_mode():
        for photo in read(args.coco, args.limit):
            aims = [*of_classes(photo, names), *of_captions(photo, names), *of_own_caption(photo, names, model)]
            point(model, model.backend.module, photo, aims, ways, "", figures)
            for seed, module in shuffled.items():
                point(model, module, photo, aims[: len(photo.inside)], [default], f"shuffled {seed}: ", figures)
            photos += 1
    about = {"model": model.name, "photos": photos, "seconds": round(time.perf_counter() - started)}
    way = f"{default[0]}-{default[1]}"
    others = [f"absent/{way}", "class/centre", *(f"class/shuffled {seed}: {way}" for seed in SEEDS)]
    against = {f"class/{way} - {other}": figures.difference(f"class/{way}", other) for other in others}
    text = json.dumps({**about, "differences": against, "figures": figures.summary()}, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


def all_ways(model: Model) -> list[Way]:
    layers = range(model.config.text.num_layers)
    each: list[Way] = [(cast(Method, method), i) for method in ("gradcam", "attention") for i in layers]
    return [*each, ("rollout", layers[-1])]


def read(shard: Path, limit: int | None) -> Iterator[Photo]:
    """Photos with boxes, numbered."""
    number = 0
    with tarfile.open(shard) as tar:
        for member in tar.getmembers():
            about = json.load(cast(Any, tar.extractfile(member))) if member.name.endswith(".json") else {}
            if not about.get("boxes") or number == limit:
                continue
            data = cast(Any, tar.extractfile(member.name.removesuffix(".json") + ".jpg")).read()
            photo = Photo(number, Image.open(io.BytesIO(data)).convert("RGB"), about["captions"] or [])
            for x, y, w, h, name in about["boxes"]:
                width, height = photo.image.size
                inside = photo.inside.setdefault(name, np.zeros((height, width), dtype=bool))
                inside[int(y * height) : round((y + h) * height), int(x * width) : round((x + w) * width)] = True
            number += 1
            yield photo


def of_classes(photo: Photo, names: dict[str, list[str]]) -> Iterator[Aim]:
    """Text "a photo of a CLASS" for each class in the photo, then the same with an absent class."""
    for name, inside in photo.inside.items():
        yield Aim("class", f"a photo of a {name}", tuple(name.split()), inside)
    absent, rng = sorted(set(names) - set(photo.inside)), np.random.default_rng(photo.number)
    for inside in photo.inside.values():
        other = str(rng.choice(absent))
        yield Aim("absent", f"a photo of a {other}", tuple(other.split()), inside)


def of_captions(photo: Photo, names: dict[str, list[str]]) -> Iterator[Aim]:
    """First human caption that names a class, for each class; the whole caption is matched."""
    for name, inside in photo.inside.items():
        matches = ((line, words) for line in photo.captions if (words := naming(line, names[name])))
        for line, words in list(matches)[:1]:
            yield Aim("human", line, words, inside)


def of_own_caption(photo: Photo, names: dict[str, list[str]], model: Model) -> Iterator[Aim]:
    """Each class that the generated caption names."""
    line = model.caption(photo.image).text
    for name, inside in photo.inside.items():
        if words := naming(line, names[name]):
            yield Aim("own", None, words, inside)


def naming(line: str, words: Sequence[str]) -> tuple[str, ...] | None:
    """The longest of these terms (of one word or several) that a line contains."""
    tokens = tokenize(line)
    for word in sorted(words, key=len, reverse=True):
        parts = tuple(word.split())
        if any(tuple(tokens[i : i + len(parts)]) == parts for i in range(len(tokens))):
            return parts
    return None


def point(
    model: Model, module: BlipModel, photo: Photo, aims: Sequence[Aim], ways: Sequence[Way], who: str, to: Figures
) -> None:
    """Record hits of all aims and methods; for the model itself also chance and the photo's centre."""
    embeds = encode(model, module, photo.image)
    made: dict[tuple[str | None, Way], Explanation] = {}
    for aim in aims:
        if not who:
            to.note(f"{aim.kind}/chance", photo.number, float(aim.inside.mean()))
            middle = aim.inside[aim.inside.shape[0] // 2, aim.inside.shape[1] // 2]
            to.note(f"{aim.kind}/centre", photo.number, float(middle))
        for way in ways:
            if (aim.text, way) not in made:
                made[aim.text, way] = words_of(model, module, embeds, aim.text, way)
            hit = float(points(made[aim.text, way], aim))
            to.note(f"{aim.kind}/{who}{way[0]}-{way[1]}", photo.number, hit)


def encode(model: Model, module: BlipModel, image: Image.Image) -> Tensor:
    config = model.config
    values = prepare([image], size=config.vision.image_size, mean=config.image_mean, std=config.image_std)
    return module.encode_image(values)


def words_of(model: Model, module: BlipModel, embeds: Tensor, text: str | None, way: Way) -> Explanation:
    return explain.explain(module, model.tokenizer, embeds, text, *way).words()


def points(explanation: Explanation, aim: Aim) -> bool:
    """Whether the peak of the mean map of the words, as drawn, is inside the boxes."""
    tokens, count = explanation.tokens, len(aim.words)
    start = next(i for i in range(len(tokens) - 1, -1, -1) if tokens[i : i + count] == aim.words)
    grid = explanation.maps[start : start + count].mean(axis=0)
    height, width = aim.inside.shape
    values = resize_map(grid, (width, height))
    return bool(aim.inside[np.unravel_index(int(values.argmax()), values.shape)])


def with_shuffled_cross_attention(model: BlipModel, seed: int) -> BlipModel:
    """A copy of the network with shuffled weights of the encoder's cross-attentions."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for block in model.encoder.blocks:
        for parameter in block.cross.parameters():
            flat = parameter.data.flatten()
            parameter.data = flat[torch.randperm(len(flat), generator=generator)].view_as(parameter)
    return model


def _interval(name: str, photos: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Mean and 95 % bootstrap interval over photos."""
    order = {photo: i for i, photo in enumerate(np.unique(photos))}
    which = np.array([order[photo] for photo in photos])
    sums, counts = np.bincount(which, values), np.bincount(which)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(sums), (DRAWS, len(sums)))
    low, high = np.quantile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), [0.025, 0.975])
    names = (name, f"{name}_low", f"{name}_high") if name else ("value", "low", "high")
    return {key: round(float(x), 4) for key, x in zip(names, (values.mean(), low, high), strict=True)}


if __name__ == "__main__":
    main()
