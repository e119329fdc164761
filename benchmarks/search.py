"""Photo search over many photos: times of indexing and searching.

    python -m benchmarks.search --photos DIR                     # 10,000 photos made by crops and noise, model tiny
    python -m benchmarks.search --photos DIR --count 2000 -m caption-base --keep runs/search

Prints times of the first indexing, an update without changes, queries by text and by photo, re-ranking of 128
candidates and the search for duplicates, and the size of the index. Measured inside one process; a command also starts
Python and torch. Processor seconds remain valid on a busy machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import blip
from blip.apps.search.index import Index
from blip.io.inputs import find_inputs

TEXTS = ("a dog on a beach", "two children play", "a man on a bicycle", "a red car", "people in the snow")


def make_photos(source: Path, folder: Path, count: int) -> None:
    """Write `count` different JPEG files: crops of the photos of a folder, with noise, equally many of each."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = find_inputs([source])
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        rng = random.Random(number)
        image = photos[number % len(photos)].read()
        width, height = (int(side * rng.uniform(0.6, 1)) for side in image.size)
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.int16)
        noise = np.random.RandomState(number).randint(-6, 7, pixels.shape, np.int16)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, quality=85)


@dataclass(frozen=True)
class Row:
    """Median wall-clock and processor seconds of an operation, and its last result."""

    wall: float
    cpu: float
    result: Any


def timed(call: Callable[[], Any], times: int = 1) -> Row:
    wall, cpu = [], []
    for _ in range(times):
        start, before = time.perf_counter(), time.process_time()
        result = call()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - before)
    return Row(statistics.median(wall), statistics.median(cpu), result)


def measure(photos: Path, folder: Path, model: blip.Model) -> Iterator[tuple[str, Row]]:
    """Yield a description and the times of each operation; indexing only if the index is new."""
    photo = next(photos.rglob("*.jpg"))
    with Index.open(folder, model=model) as index:
        first = timed(lambda: index.add_dir(photos))
        if first.result.new:
            yield f"index {first.result.new:,} photos", first
        yield "update without changes", timed(index.update, 5)
        texts = iter(TEXTS * 2)
        yield "text query", timed(lambda: index.search(next(texts), rerank=0), 10)
        yield "photo query", timed(lambda: index.search(photo, rerank=0), 10)
        yield "text query, re-ranking of 128", timed(lambda: index.search(TEXTS[0], rerank=128), 3)
        yield "duplicates of all photos", timed(index.duplicates)
        yield "similar photos", timed(index.similar)
    with Index.open(folder, model=model) as index:
        yield "first query after opening", timed(lambda: index.search(TEXTS[0], rerank=0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure photo search.")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos to derive others from")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for photos and index, reused by later runs")
    options = parser.parse_args()
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(options.photos, folder / "photos", options.count)
        model = blip.load(options.model, threads=options.threads)
        print(f"{'':<40}{'seconds':>12}{'CPU seconds':>14}")
        for operation, row in measure(folder / "photos", folder / "index", model):
            print(f"{operation:<40}{row.wall:>12.4g}{row.cpu:>14.4g}", flush=True)
        status = Index.open(folder / "index").status()
        print(f"{status.bytes:,} bytes for {status.files:,} photos, {status.bytes / status.files:,.0f} per photo")


if __name__ == "__main__":
    main()
