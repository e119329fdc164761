"""Precision and recall of `blip search --duplicates`: copies made from photos against near misses.

    python experiments/duplicates/measure.py SHARD.tar ... --videos VIDEOS.tar -o experiments/duplicates/tiny.json

For each kind of copy, an index of the originals and these copies is searched. Recall: share of the originals whose copy
is in their group. Near misses must not be reported; `--videos` adds frames of videos as such. Groups among the
originals alone are printed, for inspection by eye. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from blip.api import open_model
from blip.apps.search import duplicates
from blip.apps.search.index import Index
from blip.io.perceptual_hash import hamming_distances
from blip.io.video import frame_inputs

Photo = Image.Image
Edit = Callable[[Photo, random.Random], Photo]


@dataclass(frozen=True)
class Kind:
    """A way to derive a photo from another, and the encoding of the result."""

    edit: Edit = lambda photo, rng: photo
    format: str = "JPEG"
    quality: int = 90

    def write(self, photo: Photo, path: Path, rng: random.Random) -> None:
        self.edit(photo, rng).save(path, self.format, quality=self.quality)


def scaled(factor: float) -> Edit:
    return lambda photo, rng: photo.resize((round(photo.width * factor), round(photo.height * factor)))


def cropped(share: float) -> Edit:
    """Remove a share of the width and of the height, at random sides."""

    def edit(photo: Photo, rng: random.Random) -> Photo:
        width, height = round(photo.width * (1 - share)), round(photo.height * (1 - share))
        left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
        return photo.crop((left, top, left + width, top + height))

    return edit


def enhanced(kind: Callable[[Photo], Any], factor: float) -> Edit:
    return lambda photo, rng: kind(photo).enhance(factor)


def gamma(exponent: float) -> Edit:
    return lambda photo, rng: photo.point([round(255 * (i / 255) ** exponent) for i in range(256)] * 3)


def patched(share: float) -> Edit:
    """Replace a rectangle by another part of the photo, mirrored and upside down."""

    def edit(photo: Photo, rng: random.Random) -> Photo:
        width, height = round(photo.width * share), round(photo.height * share)
        corners = [(rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)) for _ in range(2)]
        (left, top), target = corners
        patch = photo.crop((left, top, left + width, top + height)).transpose(Image.Transpose.ROTATE_180)
        result = photo.copy()
        result.paste(patch, target)
        return result

    return edit


def chained(*edits: Edit) -> Edit:
    def edit(photo: Photo, rng: random.Random) -> Photo:
        for step in edits:
            photo = step(photo, rng)
        return photo

    return edit


COPIES = {
    "JPEG quality 75": Kind(quality=75),
    "JPEG quality 30": Kind(quality=30),
    "JPEG quality 10": Kind(quality=10),
    "WebP quality 50": Kind(format="WEBP", quality=50),
    "half size": Kind(scaled(0.5)),
    "quarter size": Kind(scaled(0.25)),
    "double size": Kind(scaled(2)),
    "cropped by 2 %": Kind(cropped(0.02)),
    "cropped by 5 %": Kind(cropped(0.05)),
    "cropped by 10 %": Kind(cropped(0.10)),
    "20 % brighter": Kind(enhanced(ImageEnhance.Brightness, 1.2)),
    "50 % brighter": Kind(enhanced(ImageEnhance.Brightness, 1.5)),
    "30 % darker": Kind(enhanced(ImageEnhance.Brightness, 0.7)),
    "gamma 0.8": Kind(gamma(0.8)),
    "30 % more contrast": Kind(enhanced(ImageEnhance.Contrast, 1.3)),
    "30 % more color": Kind(enhanced(ImageEnhance.Color, 1.3)),
    "cropped by 5 %, 15 % brighter, 70 % of the size, quality 70": Kind(
        chained(cropped(0.05), enhanced(ImageEnhance.Brightness, 1.15), scaled(0.7)), quality=70
    ),
}
NEAR_MISSES = {
    "mirrored": Kind(lambda photo, rng: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "cropped by 30 %": Kind(cropped(0.3)),
    "a part of 15 x 15 % replaced": Kind(patched(0.15)),
    "a part of 10 x 10 % replaced": Kind(patched(0.10)),
    "without color": Kind(lambda photo, rng: photo.convert("L")),
}
COLOR = 4.0  # levels of deviation; photos with less are left out of "without color"


def folder_name(kind: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in kind)


def extract(shards: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """Write the first photos of the shards, equally many of each, byte for byte; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = [member for member in tar if member.name.endswith(".jpg")][: -(-count // len(shards))]
            for member in members:
                path = folder / f"{shard.stem}-{Path(member.name).name}"
                file = tar.extractfile(member)
                assert file is not None
                path.write_bytes(file.read())
                paths.append(path)
    return paths[:count]


def make(originals: Sequence[Path], folder: Path) -> None:
    for name, kind in {**COPIES, **NEAR_MISSES}.items():
        target = folder / folder_name(name)
        target.mkdir(exist_ok=True)
        rng = random.Random(name)
        for path in originals:
            photo = Image.open(path).convert("RGB")
            if name == "without color" and np.asarray(photo.convert("YCbCr"))[..., 1:].std((0, 1)).mean() < COLOR:
                continue
            kind.write(photo, target / path.name, rng)


def extract_frames(videos: Path, folder: Path, seconds: float) -> None:
    """Write frames of the videos in a tar file, a fixed time apart."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(videos) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is None or member.name.endswith(".json"):
                continue
            path = Path(temporary, Path(member.name).name)
            path.write_bytes(file.read())
            for number, frame in enumerate(frame_inputs(str(path), 8, 1 / seconds)):
                try:
                    frame.read().convert("RGB").save(folder / f"{path.stem}-{number:03d}.jpg", quality=90)
                except Exception as error:  # one of the videos is damaged on purpose
                    print(f"{path.name}: {error}")
                    break


@dataclass(frozen=True)
class Searcher:
    """Searches for duplicates among the photos of some folders of an index."""

    index: Index
    folder: Path

    def photos(self, *folders: str) -> list[duplicates.Photo]:
        prefixes = tuple(str(self.folder / name) + "/" for name in folders)
        with self.index.snapshot() as (db, _):
            return [p for p in duplicates.list_photos(db, None) if p.files[0][0].decode().startswith(prefixes)]

    def groups(self, *folders: str) -> list[list[Path]]:
        with self.index.snapshot() as (_, state):
            assert state is not None
        report = duplicates.find(self.photos(*folders), state, workers=1)
        assert not report.failed
        return [[Path(hit.path) for hit in group] for group in report.groups]

    def measure(self, kind: str) -> dict[str, float]:
        """Return the share of found derived photos, and the number of files grouped with another photo."""
        start = time.perf_counter()
        detected = wrong = 0
        for group in self.groups("originals", folder_name(kind)):
            detected += sum(path.name == group[0].name for path in group[1:])
            wrong += sum(path.name != group[0].name for path in group)
        derived = len(list((self.folder / folder_name(kind)).iterdir()))
        return {"photos": derived, "found": detected / derived, "wrong": wrong, "seconds": time.perf_counter() - start}


def hash_table(searcher: Searcher) -> dict[str, list[float]]:
    """Return for each kind the percentiles 50, 90, 99 and 100 of the bits that its hashes differ by."""
    result = {}
    originals = {Path(photo.files[0][0].decode()).name: photo.phash for photo in searcher.photos("originals")}
    for kind in COPIES:
        bits = []
        for photo in searcher.photos(folder_name(kind)):
            pair = [originals.get(Path(photo.files[0][0].decode()).name, photo.phash), photo.phash]
            a, b = np.array(pair, np.int64).view(np.uint64)
            bits.append(int(hamming_distances(np.array([a]), np.array([b]))[0, 0]))
        result[kind] = np.percentile(bits, [50, 90, 99, 100]).tolist()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the search for duplicates.")
    parser.add_argument("shards", type=Path, nargs="+", help="tar files of photos")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--videos", type=Path, help="tar file of videos")
    parser.add_argument("--seconds", type=float, default=0.5, help="time between frames")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--keep", type=Path, help="folder for photos and index, reused by later runs")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name).absolute() / "photos"
        if not folder.exists():
            originals = extract(options.shards, options.count, folder / "originals")
            make(originals, folder)
            if options.videos:
                extract_frames(options.videos, folder / "frames", options.seconds)
        with Index.open(folder.parent / "index", open_model(options.model, needs=["match"])) as index:
            report = index.add_dir(folder, workers=1)
            assert not report.failed, report.failed
            searcher = Searcher(index, folder)
            count = len(list((folder / "originals").iterdir()))
            result: dict[str, Any] = {"count": count, "bits": hash_table(searcher)}
            result["originals"] = [[path.name for path in group] for group in searcher.groups("originals")]
            print(f"{count} originals; groups among them: {result['originals']}")
            if options.videos:
                frames = searcher.groups("frames")
                result["frames"] = [[path.name for path in group] for group in frames]
                print(f"{len(searcher.photos('frames'))} frames; groups among them: {result['frames']}")
            for title, kinds in (("copies", COPIES), ("near misses", NEAR_MISSES)):
                result[title] = {kind: searcher.measure(kind) for kind in kinds}
                for kind, row in result[title].items():
                    print(f"{kind:<62}{row['found']:>8.1%} found{row['wrong']:>6.0f} wrong", flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
