"""The photos of the experiment: files, cached features of the stem, human pairs and noisy web pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blip.api import load
from blip.data.sources import SampleList, Source, open_source
from blip.eval.photos import Photos
from blip.io.atomic import atomic_path, write_text
from blip.io.image import prepare
from blip.model.blip import BlipModel
from blip.model.stem import ConvStem
from blip_lite.config import VisionConfig
from blip_lite.decoding import Nucleus
from blip_lite.tokenizer import clean_caption
from experiments.capfilt.corrupt import TRUE, corrupt

TRAIN = ("flickr8k-train", "coco-train", "pascal-train")
DEV = ("flickr8k-dev", "coco-dev")
MAX_WORDS = 30
NEIGHBOURS = 10  # photos from which the caption of a similar photo is drawn
BATCH = 32


@dataclass(frozen=True)
class Files:
    """Files of the experiment's folder."""

    folder: Path

    @property
    def features(self) -> Path:
        """Cached features of all photos, for `augment.cached_features`."""
        return self.folder / "features.npy"

    @property
    def init(self) -> Path:
        """Starting models, one folder per seed."""
        return self.folder / "init"

    @property
    def photos(self) -> Path:
        """List of the training photos with all captions."""
        return self.folder / "photos.jsonl"

    def pairs(self, name: str) -> Path:
        """A list of photos with captions: human, web, clean, tiny, flickr8k-dev, coco-dev."""
        return self.folder / "pairs" / f"{name}.jsonl"

    def photo(self, name: str) -> Path:
        return self.folder / "photos" / f"{name}.jpg"


def extract_photos(data: Path, files: Files) -> None:
    """Write the photos as files, and lists of training and dev photos with their captions."""
    rows = {name: list(_extract(data, name, files)) for name in (*TRAIN, *DEV)}
    for name in DEV:
        write_rows(files.pairs(name), rows[name])
    write_rows(files.photos, [row for name in TRAIN for row in rows[name]])


def _extract(data: Path, name: str, files: Files) -> Iterator[dict[str, Any]]:
    for sample in open_source([str(path) for path in sorted(data.glob(f"{name}-*.tar"))]).samples:
        if sample.texts:
            photo = files.photo(sample.key.replace("/", "_").replace(".tar", ""))
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.write_bytes(sample.image.read_bytes())
            yield {"key": photo.stem, "image": f"../photos/{photo.name}", "captions": list(sample.texts)}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@torch.inference_mode()
def cache_features(stem: ConvStem, vision: VisionConfig, files: Files) -> None:
    """Write the stem's grid of every photo, [P, 1, C, s, s] in float16, and the names of the photos."""
    names = sorted(path.stem for path in (files.folder / "photos").glob("*.jpg"))
    side = vision.image_size // vision.patch_size
    with atomic_path(files.features) as part:
        shape = (len(names), 1, stem.channels, side, side)
        grids = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
        source = open_source(files.folder / "photos").samples
        by_name = {Path(sample.key).stem: sample for sample in source}
        for start in range(0, len(names), BATCH):
            images = [by_name[name].image.read() for name in names[start : start + BATCH]]
            pixels = prepare(images, size=vision.image_size, mean=(0.5,) * 3, std=(0.5,) * 3)
            with torch.autocast("cpu", torch.bfloat16):
                grid, _ = stem(pixels)
            grids[start : start + len(images), 0] = grid.half().numpy()
        grids.flush()
    write_text(files.features.with_suffix(".json"), json.dumps(names))


def write_pairs(files: Files, human: int, rate: float, seed: int = 0) -> None:
    """Write the human pairs (all captions of `human` photos), the web pairs (one each), and these uncorrupted.

    The captions of web pairs are cleaned as for training, so that the filter scores what the models train on.
    """
    rows = read_rows(files.photos)
    Random(seed).shuffle(rows)
    write_rows(files.pairs("human"), rows[:human])
    rng, rest = Random(seed + 1), rows[human:]
    captions = [clean_caption(rng.choice(row["captions"]), MAX_WORDS) for row in rest]
    web = corrupt(captions, nearest(mean_features(files, [row["key"] for row in rest])), rate, seed + 2)
    common = [{"key": row["key"], "image": row["image"]} for row in rest]
    write_rows(files.pairs("clean"), [row | {"caption": text} for row, text in zip(common, captions, strict=True)])
    texts = [clean_caption(caption.text, MAX_WORDS) for caption in web]
    labels = [{"noise": caption.kind, "true": caption.kind == TRUE} for caption in web]
    rows = [row | {"caption": text} | label for row, text, label in zip(common, texts, labels, strict=True)]
    write_rows(files.pairs("web"), rows)


def write_tiny(files: Files) -> None:
    """Write captions of the web photos by the bundled `tiny`, which has seen human ones of them in training."""
    rows = read_rows(files.pairs("web"))
    photos = (files.photo(row["key"]) for row in rows)
    captions = load("tiny", threads=1).caption_iter(photos, Nucleus())
    texts = [clean_caption(caption.text, MAX_WORDS) for caption in captions]
    common = [{"key": row["key"], "image": row["image"]} for row in rows]
    write_rows(files.pairs("tiny"), [row | {"caption": text} for row, text in zip(common, texts, strict=True)])


class CachedGrids:
    """The stem's grids by the path or name of a photo, [C, s, s] in float32."""

    def __init__(self, features: Path) -> None:
        self.grids = np.load(features, mmap_mode="r")
        self.rows = {name: i for i, name in enumerate(json.loads(features.with_suffix(".json").read_text()))}

    def __call__(self, photo: str) -> NDArray[np.float32]:
        grid: NDArray[np.float32] = self.grids[self.rows[Path(photo).stem], 0].astype(np.float32)
        return grid


def mean_features(files: Files, names: Sequence[str]) -> NDArray[np.float32]:
    """The stem's features averaged over the grid, centred and of unit length, [P, C]."""
    grids = CachedGrids(files.features)
    means = np.stack([grids(name).mean((1, 2)) for name in names])
    means -= means.mean(0)
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def nearest(features: NDArray[np.float32], count: int = NEIGHBOURS) -> list[list[int]]:
    """The indices of the most similar other rows by cosine, for each row of unit length."""
    neighbours: list[list[int]] = []
    for start in range(0, len(features), 1024):
        cosines = features[start : start + 1024] @ features.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        best = np.argpartition(-cosines, min(count, len(features) - 1) - 1, axis=1)[:, :count]
        neighbours += best.tolist()
    return neighbours


class CachedPhotos(Photos):
    """Cached features in place of the photos, as `vision.read_pixels` accepts them."""

    def __init__(self, files: Files) -> None:
        super().__init__(batch_size=64)
        self.grids = CachedGrids(files.features)

    def batches(
        self, source: Source, model: BlipModel, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        chosen = list(range(len(source)) if indices is None else indices)
        for start in range(0, len(chosen), self.batch_size):
            part = chosen[start : start + self.batch_size]
            yield part, torch.from_numpy(np.stack([self.grids(source[i].image.name) for i in part]))


def dev_set(files: Files, name: str, limit: int | None) -> SampleList:
    return SampleList(open_source(files.pairs(name)).samples[:limit])
