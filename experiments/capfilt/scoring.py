"""Captions and scores of the web photos, and the selection, by `blip.capfilt` on cached features of the stem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from blip import capfilt
from blip.api import LoadOptions
from blip.capfilt.items import Item, Reading
from blip.capfilt.models import CaptionFilter
from blip.capfilt.record import SCORES, WEB
from blip.capfilt.score import CaptionAndScore, Decoded
from blip.capfilt.texts import Captions
from blip.engine.units import list_units
from blip.engine.work import complete
from blip.io.columns import Columns
from blip.torch_backend import TorchBackend
from blip_lite.decoding import Beam, Decoding, Nucleus
from blip_lite.image import MAX_PIXELS
from experiments.capfilt.data import CachedGrids, Files, write_rows

NUCLEUS, BEAM = Nucleus(), Beam(num_beams=3)
DONE, SELECTED = Path(SCORES) / "web.parquet", "selected.jsonl"
WEB_ONLY = "kind = 'web'"  # condition of a selection
NOISE = ("noise", "true")  # columns of the web pairs that the scores repeat


class CachedCaptionFilter(CaptionFilter):
    """Reads the stem's grids [C, s, s] in place of images."""

    @staticmethod
    def _encode(backend: TorchBackend, squares: Sequence[Any]) -> Tensor:
        return backend.module.encode_image(torch.from_numpy(np.stack(squares)))


@dataclass(kw_only=True)
class CachedCaptionAndScore(CaptionAndScore):
    """The work of `blip capfilt run` on cached features: both models have the same stem, which is frozen."""

    features: Path
    grids: CachedGrids = field(init=False, repr=False)

    def load(self, threads: int | None = None) -> None:
        super().load(threads)
        assert self.models is not None
        self.models = CachedCaptionFilter(self.models.captioner, self.models.filter)
        self.grids = CachedGrids(self.features)

    def _decode(self, item: Item) -> Decoded:
        assert self.models is not None and item.image is not None
        return Decoded({}, (self.grids(item.image.name),) * len(self.models.towers))


def score(files: Files, captioner: Path, filter_: Path, decoding: Decoding, output: Path) -> None:
    """Write the score file of the web pairs: a synthetic caption for each photo, and the scores of both captions."""
    work = CachedCaptionAndScore(
        captioner=str(captioner),
        filter=str(filter_),
        captions=Captions(decoding=decoding),
        reading=Reading(columns=Columns(), copy_columns=NOISE),
        max_pixels=MAX_PIXELS,
        batch_size=64,
        workers=1,
        options=LoadOptions(),
        features=files.features,
    )
    work.load(threads=1)
    (unit,) = list_units([str(files.pairs("web"))], Columns(), rows=10**9)
    complete(work, unit, output / DONE, lambda counts, share: None)


def select(scores: Path, output: Path, threshold: float | str, where: str | None) -> None:
    """Write the captions whose match probability is at least the threshold, or the best share, as a list of pairs.

    The list is empty if no caption reaches the threshold, which the tool refuses.
    """
    table = pq.read_table(scores / DONE, columns=["kind", "itm"])
    if where == WEB_ONLY:
        table = table.filter(pc.equal(table["kind"], WEB))
    if isinstance(threshold, float) and pc.max(table["itm"]).as_py() < threshold:
        write_rows(output / SELECTED, [])
        return
    capfilt.select(scores, output, threshold=threshold, where=where, format="jsonl", overwrite=True)
