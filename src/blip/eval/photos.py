"""The photos of a source as batches for a model: read ahead by threads; bad ones are named or skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blip.data.sources import Source
from blip.io.image import prepare
from blip.io.ordered_map import batched, ordered_map
from blip.io.samples import ImageRef
from blip.model.blip import BlipModel
from blip_lite.errors import BadRecord, UnreadableImage

BATCH = 16


@dataclass
class Photos:
    """Reads photos for inference. A bad one raises `BadRecord` with file and row; with `skip_bad` it goes to `bad`."""

    batch_size: int = BATCH
    workers: int = 2
    skip_bad: bool = False
    bad: list[BadRecord] = field(default_factory=list)

    def batches(
        self, source: Source, model: BlipModel, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield indices of the photos read and their pixel_values [B, 3, S, S], in order: each sample's first image."""
        chosen = range(len(source)) if indices is None else indices
        return self.read(((i, source[i].image, source[i].where or source[i].key) for i in chosen), model)

    def read(self, refs: Iterable[tuple[int, ImageRef, str]], model: BlipModel) -> Iterator[tuple[list[int], Tensor]]:
        """Yield batches as `batches` does, for (index, image, file and row)."""
        config, weight = model.config, model.vision.cls_token

        def read(item: tuple[int, ImageRef, str]) -> tuple[int, Tensor | BadRecord]:
            index, ref, where = item
            name = str(ref.path or "")
            try:
                image = ref.read(key=name)
            except UnreadableImage as error:
                return index, BadRecord(where, f"image {name}: {error.reason}" if name != where else error.reason)
            return index, prepare([image], size=config.vision.image_size, mean=config.image_mean, std=config.image_std)[
                0
            ]

        results = ordered_map(read, refs, ahead=2 * self.batch_size, workers=self.workers)
        for batch in batched(results, self.batch_size):
            good = [(index, pixels) for index, pixels in batch if isinstance(pixels, Tensor)]
            self._skip([error for _, error in batch if isinstance(error, BadRecord)])
            if good:
                pixel_values = torch.stack([pixels for _, pixels in good])
                yield [index for index, _ in good], pixel_values.to(weight.device, weight.dtype)

    def _skip(self, bad: list[BadRecord]) -> None:
        if bad and not self.skip_bad:
            raise bad[0]
        self.bad += bad
