"""The photos of a source as batches for a model: read ahead by threads, broken ones named or passed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from blip.data.sources import Source
from blip.io.image import prepare
from blip.io.samples import ImageRef
from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig
from blip_lite.errors import BadRecord, UnreadableImage
from blip_lite.image import read

BATCH = 16


@dataclass
class Photos:
    """Reads photos for inference. A broken one raises `BadRecord` with file and row; with `skip_bad` it is in `bad`."""

    batch_size: int = BATCH
    workers: int = 2
    skip_bad: bool = False
    bad: list[BadRecord] = field(default_factory=list)

    def batches(
        self, source: Source, model: BlipModel, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of the photos read and their pixel_values [B, 3, S, S], in order; the first image of each record."""
        chosen = range(len(source)) if indices is None else indices
        refs = ((i, source[i].image, source[i].where or source[i].key) for i in chosen)
        return self.read(refs, model)

    def read(self, refs: Iterator[tuple[int, ImageRef, str]], model: BlipModel) -> Iterator[tuple[list[int], Tensor]]:
        """As `batches`, of (number, image, place for messages)."""

        def one(number: int, ref: ImageRef, where: str) -> tuple[int, Tensor | BadRecord]:
            name = str(ref.path or "")
            try:
                return number, _pixels(ref, name, model.config)
            except UnreadableImage as error:
                return number, BadRecord(where, f"image {name}: {error.reason}" if name != where else error.reason)

        weight = model.vision.cls_token
        with ThreadPoolExecutor(self.workers) as pool:
            ahead = deque(pool.submit(one, *ref) for ref in islice(refs, 3 * self.batch_size))
            while ahead:
                batch = [ahead.popleft().result() for _ in range(min(self.batch_size, len(ahead)))]
                ahead.extend(pool.submit(one, *ref) for ref in islice(refs, self.batch_size))
                good = [(number, x) for number, x in batch if isinstance(x, Tensor)]
                self._pass_over([x for _, x in batch if isinstance(x, BadRecord)])
                if good:
                    yield (
                        [number for number, _ in good],
                        torch.stack([x for _, x in good]).to(weight.device, weight.dtype),
                    )

    def _pass_over(self, bad: list[BadRecord]) -> None:
        if bad and not self.skip_bad:
            raise bad[0]
        self.bad += bad


def _pixels(ref: ImageRef, key: str, config: BlipConfig) -> Tensor:
    image = read(ref.open(), key=key)
    return prepare([image], size=config.vision.image_size, mean=config.image_mean, std=config.image_std)[0]
