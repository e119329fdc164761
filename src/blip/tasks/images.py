"""Photos with texts as training samples: one item is a photo and some of its captions; batches are dicts of tensors.

Shared by the tasks that learn from image-text pairs. Reads nothing itself: sources come from `blip.data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip.config import BlipConfig
from blip.data.loader import SampleRef
from blip.data.records import Record
from blip.data.sources import Source
from blip.data.transforms import TrainTransform
from blip.errors import ConfigError
from blip.io.image import prepare, read
from blip.tokenizer import Tokenizer, clean_caption


@dataclass(frozen=True)
class Sample:
    """A photo [3, S, S] (or a stem's grid of it), its training texts, its number in the source."""

    pixel_values: Tensor
    texts: tuple[str, ...]
    index: int


class TrainingPhotos:
    """Augmented photos with `texts_per_image` of their captions, drawn without replacement where there are enough.

    views: a file [N, K, C, s, s] of what a frozen stem has read of the N photos in K views (.npy); a sample then has
    one of them in place of pixels.
    """

    def __init__(
        self, source: Source, transform: TrainTransform, texts_per_image: int, max_words: int, views: str | None = None
    ) -> None:
        self.source, self.transform = source, transform
        self.texts_per_image, self.max_words = texts_per_image, max_words
        self.views = None if views is None else np.load(views, mmap_mode="r")
        if self.views is not None and len(self.views) != len(source):
            raise ConfigError(f"views {views}: of {len(self.views)} photos; the data have {len(source)}")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, ref: SampleRef) -> Sample:
        record = self.source[ref.index]
        rng = np.random.RandomState(ref.seed % 2**32)
        count = min(self.texts_per_image, len(record.texts))
        chosen = rng.choice(len(record.texts), count, replace=False) if len(record.texts) > 1 else [0]
        texts = tuple(clean_caption(record.texts[i], self.max_words) for i in chosen)
        texts += texts[:1] * (self.texts_per_image - count)
        return Sample(self._pixels(record, ref), texts, ref.index)

    def _pixels(self, record: Record, ref: SampleRef) -> Tensor:
        if self.views is not None:
            return torch.from_numpy(self.views[ref.index, ref.seed % self.views.shape[1]].astype(np.float32))
        return self.transform(read(record.image.open(), key=record.key), ref.seed)


def read_photos(source: Source, indices: Sequence[int], config: BlipConfig) -> Tensor:
    """Photos as for inference: [B, 3, S, S]."""
    images = [read(source[i].image.open(), key=source[i].key) for i in indices]
    return prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)


def collate_pairs(samples: Sequence[Sample], tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """One text a photo for ITC and ITM ([CLS] first), all of them for the LM ([DEC] first), image-major."""
    first = tokenizer.encode([s.texts[0] for s in samples], max_length=max_length)
    texts = tokenizer.encode([t for s in samples for t in s.texts], first="dec", max_length=max_length)
    return {
        "pixel_values": torch.stack([s.pixel_values for s in samples]),
        "input_ids": first.input_ids,
        "attention_mask": first.attention_mask,
        "lm_ids": texts.input_ids,
        "lm_mask": texts.attention_mask,
        "labels": texts.input_ids.masked_fill(texts.attention_mask == 0, -100),
        "image_ids": torch.tensor([s.index for s in samples]),
        "texts": [s.texts[0] for s in samples],
    }


def with_first(input_ids: Tensor, first: int) -> Tensor:
    """The same texts under another first token: [B, T] -> [B, T]."""
    return torch.cat([torch.full_like(input_ids[:, :1], first), input_ids[:, 1:]], dim=1)


def train_transform(config: BlipConfig, min_scale: float, rand_augment: bool) -> TrainTransform:
    """The training transform of a model: crop, flip, RandAugment(2, 5), normalise (blip-spec 3.1)."""
    return TrainTransform(
        size=config.vision.image_size,
        min_scale=min_scale,
        mean=config.image_mean,
        std=config.image_std,
        rand_augment=(2, 5) if rand_augment else None,
    )
