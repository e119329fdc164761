"""Photos with texts as training samples: one item is a photo and some of its captions; batches are dicts of tensors.

Shared by the tasks that learn from image-text pairs. Reads nothing itself: sources come from `blip.data`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blip.data.loader import SampleRef
from blip.data.sources import Source
from blip.data.transforms import TrainTransform
from blip.io.samples import ImageRef, Sample
from blip.tokenizer import Tokenizer
from blip_lite.config import BlipConfig
from blip_lite.errors import ConfigError
from blip_lite.tokenizer import clean_caption


@dataclass(frozen=True)
class TrainingSample:
    """A photo [3, S, S] (or a stem's grid of it), its training texts, its number in the source."""

    pixel_values: Tensor
    texts: tuple[str, ...]
    index: int


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How training photos vary: the smallest crop, RandAugment(2, 5), mirroring (words like left stay as they are)."""

    min_scale: float = 0.5  # of the area; original: 0.2 in pre-training
    rand_augment: bool = True
    flip: bool = True

    def transform(self, config: BlipConfig) -> TrainTransform:
        """Crop, flip, RandAugment and normalisation for a model (blip-spec 3.1)."""
        return TrainTransform(
            size=config.vision.image_size,
            min_scale=self.min_scale,
            mean=config.image_mean,
            std=config.image_std,
            flip=self.flip,
            rand_augment=(2, 5) if self.rand_augment else None,
        )


class ImageLoader:
    """A training photo as a tensor: augmented anew for every seed, or one of what a frozen stem has read of it.

    views: a file [P, K, C, s, s] (.npy) of P photos in K views, whose names are listed beside it (.json); a photo is
    found by the name of its file without folder and extension.
    """

    def __init__(self, transform: TrainTransform, views: str | None = None) -> None:
        self.transform = transform
        self.views: NDArray[np.float16] | None = None
        if views is not None:
            self.views = np.load(views, mmap_mode="r")
            names = json.loads(Path(views).with_suffix(".json").read_text(encoding="utf-8"))
            self.places = {name: i for i, name in enumerate(names)}

    def __call__(self, record: Sample, image: ImageRef, seed: int) -> Tensor:
        """[3, S, S], or the stem's grid [C, s, s]."""
        if self.views is None:
            return self.transform(image.read(key=str(image.path or record.key)), seed)
        name = Path(str(image.path or record.key)).stem
        if name not in self.places:
            raise ConfigError(f"views: none of photo '{name}'; make them of the same photos as the data")
        return torch.from_numpy(self.views[self.places[name], seed % self.views.shape[1]].astype(np.float32))


class TrainingPhotos:
    """Augmented photos with `texts_per_image` of their captions, drawn without replacement where there are enough."""

    def __init__(self, source: Source, pixels: ImageLoader, texts_per_image: int, max_words: int) -> None:
        self.source, self.pixels = source, pixels
        self.texts_per_image, self.max_words = texts_per_image, max_words

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        record = self.source[ref.index]
        rng = np.random.RandomState(ref.seed % 2**32)
        count = min(self.texts_per_image, len(record.texts))
        chosen = rng.choice(len(record.texts), count, replace=False) if len(record.texts) > 1 else [0]
        texts = tuple(clean_caption(record.texts[i], self.max_words) for i in chosen)
        texts += texts[:1] * (self.texts_per_image - count)
        return TrainingSample(self.pixels(record, record.image, ref.seed), texts, ref.index)


def collate_pairs(samples: Sequence[TrainingSample], tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
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
