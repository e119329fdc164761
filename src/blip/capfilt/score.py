"""The work on a unit: caption its images, score all texts, write the score file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blip.api import LoadOptions, load
from blip.capfilt.items import Item, Reading
from blip.capfilt.record import HUMAN
from blip.capfilt.score_file import ScoreFile, read_counts
from blip.capfilt.texts import Captions, ScoredText
from blip.engine.memory import retry_halved
from blip.engine.units import Unit
from blip.engine.work import Counts, Tick
from blip.io.byte_sources import ImageSource, TarMember
from blip.io.ordered_map import batched, ordered_map
from blip.io.perceptual_hash import perceptual_hash
from blip_lite import image as images
from blip_lite.errors import MissingExtra, UnreadableImage

if TYPE_CHECKING:
    from blip.capfilt.models import CaptionFilter, Squares

THRESHOLD = 0.5  # of ITM: texts with at least this are counted as kept
NO_TEXT = "no text"
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image that has been read: columns of its score rows, and its pixels at the input sizes of the models."""

    columns: dict[str, Any]
    squares: Squares


@dataclass(kw_only=True)
class CaptionAndScore:
    """A `blip.engine.work.Work`: one score file per unit.

    captioner: None if only given texts are scored (`captions` is None then). batch_size, workers: None = what suits the
    device, and the cores.
    """

    captioner: str | None
    filter: str
    captions: Captions | None
    reading: Reading
    max_pixels: int
    batch_size: int | None
    workers: int
    options: LoadOptions
    models: CaptionFilter | None = field(default=None, init=False, repr=False)

    def load(self, threads: int | None = None) -> None:
        """Open the models; one that serves as both is opened once. threads: unless the options have a number."""
        from blip.capfilt.models import CaptionFilter

        options = LoadOptions(**self.options)
        options["threads"] = options.get("threads") or threads
        judge = load(self.filter, **options)
        judge.require("match")
        captioner = None
        if self.captioner is not None:
            captioner = judge if self.captioner == self.filter else load(self.captioner, **options)
            captioner.require("caption")
        self.models = CaptionFilter(captioner, judge)

    def process(self, unit: Unit, path: Path, tick: Tick) -> None:
        """Write the score file of a unit. Threads read two batches ahead of the models."""
        assert self.models is not None, "load() comes first"
        size = self.batch_size or self.models.default_batch_size
        file, total = ScoreFile(self.reading.copy_columns), 0
        items = ordered_map(self._read, self.reading.items(unit), ahead=2 * size, workers=self.workers)
        for batch in batched(items, size):
            counts = Counts()
            to_score = [(item, decoded) for item, decoded in batch if decoded is not None and not item.is_human]
            scored = iter(retry_halved(self._score, to_score))
            for item, decoded in batch:
                texts = [] if decoded is None or item.is_human else next(scored)
                if decoded is not None and not (item.texts or texts):
                    item = replace(item, error=NO_TEXT)
                file.add(item, {} if decoded is None else decoded.columns, texts)
                _count(counts, item, texts)
            file.counts.add(counts)
            total += len(batch)
            tick(counts, _share(unit, batch[-1][0], total))
        file.write(path)

    def counts(self, path: Path) -> Counts:
        """Return the counts of a finished score file."""
        return read_counts(path)

    def _read(self, item: Item) -> tuple[Item, Decoded | None]:
        """Decode the image of an item; the item has the reason if that is not possible."""
        if item.error is not None or item.image is None:
            return item, None
        try:
            return item, self._decode(item)
        except UnreadableImage as error:
            return replace(item, error=error.reason), None
        except MissingExtra as error:
            return replace(item, error=str(error).removeprefix(f"{item.key} ")), None

    def _decode(self, item: Item) -> Decoded:
        assert self.models is not None and item.image is not None
        if isinstance(item.image.source, ImageSource):
            raise UnreadableImage(item.key, "a frame of a video, not an image file")
        data = item.image.read_bytes()
        image = images.read(data, key=item.key, max_pixels=self.max_pixels)
        columns = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "phash": perceptual_hash(image),
            "width": image.width,
            "height": image.height,
        }
        if item.is_human:
            return Decoded(columns, ())
        sides = self.models.sides
        squares = {side: np.asarray(images.square(image, side)) for side in set(sides)}  # two towers may have one size
        return Decoded(columns, tuple(squares[side] for side in sides))

    def _score(self, batch: Sequence[tuple[Item, Decoded | None]]) -> list[list[ScoredText]]:
        assert self.models is not None
        squares = [decoded.squares for _, decoded in batch if decoded is not None]
        items = [item for item, _ in batch]
        return self.models(squares, [item.texts for item in items], [item.key for item in items], self.captions)


def _count(counts: Counts, item: Item, texts: Sequence[ScoredText]) -> None:
    counts.images += 1
    if item.error is not None:
        counts.errors[_NUMBER.sub("N", item.error)] += 1
    elif item.is_human:
        counts.texts[HUMAN] += len(item.texts)
    for text in texts:
        counts.texts[text.kind] += 1
        counts.kept[text.kind] += text.itm >= THRESHOLD


def _share(unit: Unit, item: Item, total: int) -> float:
    """Return the share of a unit that is done after its last item so far, of `total`."""
    if item.image is not None and isinstance(item.image.source, TarMember):
        return min(1.0, (item.image.source.offset + item.image.source.size) / max(unit.size, 1))
    return min(1.0, total / unit.rows) if unit.rows else 0.0
