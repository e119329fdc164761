"""Rows whose images can be read: every image is decoded once, so this is for small data such as validation sets."""

from __future__ import annotations

from blip.data.sources import SampleList, Source, warn_bad_rows
from blip.io.ordered_map import ordered_map
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UnreadableImage, UsageError

AHEAD, WORKERS = 16, 2


def readable(source: Source) -> SampleList:
    """Return the rows whose images can be decoded; the others are listed in a warning."""
    samples = [source[i] for i in range(len(source))]
    problems = list(ordered_map(_problem, samples, ahead=AHEAD, workers=WORKERS))
    good = [sample for sample, problem in zip(samples, problems, strict=True) if problem is None]
    bad = [problem for problem in problems if problem is not None]
    if not good:
        raise UsageError(f"none of {len(samples)} validation rows can be read; first: {bad[0]}")
    warn_bad_rows(bad)
    return SampleList(good, bad)


def _problem(sample: Sample) -> BadRecord | None:
    for image in sample.images:
        try:
            image.read()
        except UnreadableImage as error:
            where = sample.where or sample.key
            return BadRecord(where, error.reason if where == str(image.path) else f"image {error}")
    return None
