"""Copies of one photo among the indexed stills: equal files, and photos whose pixels agree (see `pixels.compare`).

Perceptual hashes and cosines, both from the index, select candidate pairs; only their files are read. Each photo of a
group was compared with the first, which has the most pixels. Links to one file, symbolic or hard, count once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from blip.apps.search.database import STILL, Database
from blip.apps.search.pixels import compare, reduce
from blip.apps.search.reading import read_picture
from blip.apps.search.scan import display_path, prefix_range
from blip.apps.search.vectors import Vectors
from blip.io.ordered_map import ordered_map
from blip.io.perceptual_hash import hamming_distances
from blip_lite.errors import BlipError, UnreadableImage
from blip_lite.results import Hit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

# Most copies differ by at most 10 bits of 64; cropped ones by up to 18, but their cosine is high
CLOSE_BITS, MAX_BITS, MIN_COSINE = 10, 18, 0.9
CACHE = 64  # reduced photos, of about 1 MB
Progress = Callable[[int, int], object]  # (photos done, photos in all)


@dataclass
class DuplicateReport:
    """Groups of copies, the largest first, and (path, reason) of candidates that could not be compared.

    `Hit.rank` is the number of the group; `Hit.score` is 1 for files equal to the group's first file, else the
    correlation of the pixels with it.
    """

    groups: list[list[Hit]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture of the index and its files, as (path, size, modification time)."""

    id: int
    phash: int
    pixels: int
    files: list[tuple[bytes, int, int]]


def list_photos(db: Database, under: bytes | None) -> list[Photo]:
    """Return the stills, or those in a folder: those with most pixels first, then those with the largest file."""
    rows = db.execute(
        "SELECT p.id, p.phash, p.pixels, f.path, f.size, f.mtime FROM pictures p"
        " JOIN files f ON f.hash = p.hash AND f.error IS NULL"
        " WHERE p.at = ? AND f.path >= ? AND f.path < ? ORDER BY p.pixels DESC, f.size DESC, f.path",
        (STILL, *prefix_range(under)),
    )
    photos: dict[int, Photo] = {}
    for id, phash, pixels, path, size, mtime in rows:
        photos.setdefault(id, Photo(id, phash, pixels, [])).files.append((path, size, mtime))
    return list(photos.values())


def find(
    photos: Sequence[Photo], state: Vectors, *, workers: int, progress: Progress = lambda done, total: None
) -> DuplicateReport:
    """Find the groups of at least two files."""
    return _Search(photos, state, workers, progress).run()


class _Search:
    """One search for copies among some photos."""

    def __init__(self, photos: Sequence[Photo], state: Vectors, workers: int, progress: Progress) -> None:
        self.photos, self.workers, self.progress = photos, workers, progress
        ids, self.vectors = state.get(np.array([photo.id for photo in photos], np.int64))
        assert len(ids) == len(photos), "every picture has a vector"
        self.hashes = np.array([photo.phash for photo in photos], np.int64).view(np.uint64)
        self.read = lru_cache(CACHE)(self._read)
        self.failed: dict[bytes, str] = {}

    def run(self) -> DuplicateReport:
        assigned = np.zeros(len(self.photos), bool)
        groups = []
        for i, photo in enumerate(self.photos):
            self.progress(i + 1, len(self.photos))
            if assigned[i]:
                continue
            others = self._candidates(i, assigned)
            scores = self._scores(i, others) if others else []
            copies = [(j, score) for j, score in zip(others, scores, strict=True) if score is not None]
            assigned[[j for j, _ in copies]] = True
            files = [(path, 1.0, i) for path in self._files(photo)] if copies or len(photo.files) > 1 else []
            files += [(path, score, j) for j, score in copies for path in self._files(self.photos[j])]
            files = _without_links(files)
            if len(files) > 1:
                groups.append((i, files))
        groups.sort(key=lambda group: (-len(group[1]), group[1][0][0]))
        return DuplicateReport(
            [self._to_hits(number, *group) for number, group in enumerate(groups, 1)],
            [(display_path(path), reason) for path, reason in sorted(self.failed.items())],
        )

    def _candidates(self, i: int, assigned: NDArray[np.bool_]) -> list[int]:
        """Return the later photos, not yet in a group, that may be copies of a photo, by hash and cosine."""
        bits = hamming_distances(self.hashes[i : i + 1], self.hashes[i + 1 :])[0]
        near = np.flatnonzero(bits <= MAX_BITS)
        others = i + 1 + near
        cosines = self.vectors[others] @ self.vectors[i]
        likely = ((bits[near] <= CLOSE_BITS) | (cosines >= MIN_COSINE)) & ~assigned[others]
        result: list[int] = others[likely].tolist()
        return result

    def _scores(self, i: int, others: Sequence[int]) -> list[float | None]:
        """Return the correlation of a photo with others; None for one that is not a copy or cannot be read."""
        try:
            photo = self.read(i)
        except BlipError:
            return [None] * len(others)
        return list(ordered_map(lambda j: self._score(photo, j), others, ahead=8, workers=self.workers))

    def _score(self, photo: Image, j: int) -> float | None:
        try:
            comparison = compare(photo, self.read(j))
        except BlipError:
            return None
        return min(comparison.correlation, 0.9999) if comparison.is_copy else None

    def _read(self, i: int) -> Image:
        """Read one file of a photo. Raises UnreadableImage if there is none; the files are then in `failed`."""
        for path in self._files(self.photos[i]):
            try:
                return reduce(read_picture(path))
            except UnreadableImage as error:
                self.failed[path] = error.reason
        raise UnreadableImage(display_path(self.photos[i].files[0][0]), "no file can be compared")

    def _files(self, photo: Photo) -> list[bytes]:
        """Return the files of a photo that are as they were indexed."""
        paths = []
        for path, size, mtime in photo.files:
            if path in self.failed:
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                self.failed[path] = f"cannot be read ({error.strerror or error})"
                continue
            if (status.st_size, status.st_mtime_ns) == (size, mtime):
                paths.append(path)
            else:
                self.failed[path] = "changed since it was indexed"
        return paths

    def _to_hits(self, number: int, first: int, files: Sequence[tuple[bytes, float, int]]) -> list[Hit]:
        cosines = [min(1.0, float(self.vectors[i] @ self.vectors[first])) for _, _, i in files]
        return [
            Hit(number, display_path(path), score, itc=cosine)
            for (path, score, _), cosine in zip(files, cosines, strict=True)
        ]


def _without_links(files: Sequence[tuple[bytes, float, int]]) -> list[tuple[bytes, float, int]]:
    """Return one path of each file on disk, preferably one that is not a symbolic link."""
    kept: dict[tuple[int, int], tuple[bytes, float, int]] = {}
    for entry in sorted(files, key=lambda entry: os.path.islink(entry[0])):
        status = os.stat(entry[0])
        kept.setdefault((status.st_dev, status.st_ino), entry)
    return [entry for entry in files if entry in kept.values()]
