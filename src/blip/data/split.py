"""Photos of the training data that are held out for evaluation: drawn once, with all their rows."""

from __future__ import annotations

import re
from collections.abc import Hashable
from itertools import pairwise

import numpy as np

from blip.data.indexed_source import IndexedSource
from blip.data.sources import SampleList, Source
from blip.io.samples import Sample
from blip_lite.errors import ConfigError

AUTO = "auto"  # a fifth of the photos, at most 100, none of fewer than 10
AUTO_SHARE, AUTO_MOST, FEWEST_PHOTOS = 0.2, 100, 10
INDEXED = "rows that are read through an index cannot be grouped by photo"
PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


def is_share(spec: object) -> bool:
    """Whether validation data are a share of the training data: `auto` or a percentage such as `10%`."""
    return isinstance(spec, str) and (spec == AUTO or PERCENT.fullmatch(spec) is not None)


def hold_out(source: Source, share: str) -> tuple[Source, Source | None]:
    """Return the rows to train on and those to evaluate on, None if there are too few photos.

    Rows that share a photo, directly or through other rows, or have equal `image_id`, stay together. The draw depends
    on the number of photos and their order only. Of indexed rows, whose photos are not known, `AUTO` holds out none.
    """
    if isinstance(source, IndexedSource):
        if share != AUTO:
            raise ConfigError(f"val {share}: {INDEXED}; give a file to evaluate on, or none")
        return source, None
    samples = [source[i] for i in range(len(source))]
    groups = _by_photo(samples)
    photos = [len({image for i in group for image in samples[i].images}) for group in groups]
    left = _photos_to_hold(share, sum(photos))
    held: set[int] = set()
    for number in np.random.RandomState(0).permutation(len(groups)):
        if photos[number] <= left:
            left -= photos[number]
            held.update(groups[number])
    if not held:
        return source, None
    skipped = getattr(source, "skipped", ())
    bounds = np.cumsum([0, *getattr(source, "parts", (len(samples),))])
    parts = [sum(i not in held for i in range(a, b)) for a, b in pairwise(bounds)]
    train = SampleList([s for i, s in enumerate(samples) if i not in held], skipped, parts)
    return train, SampleList([s for i, s in enumerate(samples) if i in held])


def count_photos(source: Source) -> int:
    """Return the number of distinct photos."""
    return len({image for i in range(len(source)) for image in source[i].images})


def _photos_to_hold(share: str, photos: int) -> int:
    """Return the number of photos to hold out."""
    if share == AUTO:
        return 0 if photos < FEWEST_PHOTOS else min(round(AUTO_SHARE * photos), AUTO_MOST)
    match = PERCENT.fullmatch(share)
    percent = float(match[1]) if match else 0.0
    if not 0 < percent < 100:
        raise ConfigError(f"val {share}: must be above 0% and below 100%")
    return min(max(1, round(percent * photos / 100)), photos - 1)


def _by_photo(samples: list[Sample]) -> list[list[int]]:
    """Group the numbers of rows that share a photo, in the order of their first rows."""
    parents = list(range(len(samples)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = i = parents[parents[i]]
        return i

    first: dict[Hashable, int] = {}
    for i, sample in enumerate(samples):
        number = sample.fields.get("image_id")
        names: list[Hashable] = [*sample.images, *([("image_id", str(number))] if number is not None else [])]
        for name in names:
            a, b = root(first.setdefault(name, i)), root(i)
            parents[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for i in range(len(samples)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
