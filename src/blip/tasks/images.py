"""Training samples of image-text pairs: loading and augmenting images, choosing texts, collating batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from blip.data.loader import SampleRef
from blip.data.sources import Source
from blip.data.transforms import TrainTransform
from blip.io.image import prepare
from blip.io.samples import ImageRef, Sample
from blip.tokenizer import Tokenizer
from blip_lite.config import BlipConfig
from blip_lite.errors import BadRecord, ConfigError, UnreadableImage
from blip_lite.text_files import load_json
from blip_lite.tokenizer import clean_caption


@dataclass(frozen=True)
class TrainingSample:
    """Pixels [3, S, S] (or cached features [C, s, s]) of an image, its training texts, its number in the source."""

    pixel_values: Tensor
    texts: tuple[str, ...]
    index: int


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random variations of training images: crop, RandAugment(2, 5), horizontal flip (words such as left stay).

    cached_features: file of precomputed outputs of a frozen stem, used instead of the images (`ImageLoader`).
    """

    min_scale: float = 0.5  # smallest crop, as a share of the area; original: 0.2 in pre-training
    rand_augment: bool = True
    flip: bool = True
    cached_features: str | None = None

    def loader(self, config: BlipConfig, varied: bool = True) -> ImageLoader:
        """Return a loader with the image size and normalisation of a model (blip-spec 3.1).

        varied False: read images as for inference.
        """
        size, mean, std = config.vision.image_size, config.image_mean, config.image_std
        if not varied:
            return ImageLoader(InferenceTransform(size, mean, std), self.cached_features)
        transform = TrainTransform(
            size=size,
            min_scale=self.min_scale,
            mean=mean,
            std=std,
            flip=self.flip,
            rand_augment=(2, 5) if self.rand_augment else None,
        )
        return ImageLoader(transform, self.cached_features)


@dataclass(frozen=True)
class InferenceTransform:
    """Pixels [3, S, S] of an image as for inference; the seed has no effect."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image, seed: int) -> Tensor:
        return prepare([image], size=self.size, mean=self.mean, std=self.std)[0]


class ImageLoader:
    """Loads training images as tensors: augmented by seed, or one of several cached feature maps of a frozen stem.

    cached_features: .npy file [P, K, C, s, s] of P images in K variants; a .json file beside it lists the images' file
    names, without folder and extension, in the same order.
    """

    def __init__(self, transform: Callable[[Image, int], Tensor], cached_features: str | None = None) -> None:
        self.transform = transform
        self.features: NDArray[np.float16] | None = None
        if cached_features is not None:
            self.features = np.load(cached_features, mmap_mode="r")
            names = load_json(Path(cached_features).with_suffix(".json"))
            self.rows = {name: i for i, name in enumerate(names)}

    def __call__(self, sample: Sample, image: ImageRef, seed: int) -> Tensor:
        """Return pixels [3, S, S], or cached features [C, s, s]. Raises BadRecord naming the row if unreadable."""
        name = str(image.path or sample.key)
        if self.features is None:
            try:
                return self.transform(image.read(key=name), seed)
            except UnreadableImage as error:
                where = sample.where or sample.key
                raise BadRecord(where, error.reason if where == name else f"image {error}") from error
        row = self.rows.get(Path(name).stem)
        if row is None:
            raise ConfigError(f"augment.cached_features: no features of image '{Path(name).stem}'; compute them again")
        return torch.from_numpy(self.features[row, seed % self.features.shape[1]].astype(np.float32))


class TrainingImages:
    """Augmented images with `texts_per_image` of their captions, without repetition if there are enough."""

    def __init__(self, source: Source, loader: ImageLoader, texts_per_image: int, max_words: int) -> None:
        self.source, self.loader = source, loader
        self.texts_per_image, self.max_words = texts_per_image, max_words

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        sample = self.source[ref.index]
        rng = np.random.RandomState(ref.seed % 2**32)
        count = min(self.texts_per_image, len(sample.texts))
        chosen = rng.choice(len(sample.texts), count, replace=False) if len(sample.texts) > 1 else [0]
        texts = tuple(clean_caption(sample.texts[i], self.max_words) for i in chosen)
        texts += texts[:1] * (self.texts_per_image - count)
        return TrainingSample(self.loader(sample, sample.image, ref.seed), texts, ref.index)


def collate_pairs(samples: Sequence[TrainingSample], tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """Collate one text per image for ITC and ITM ([CLS] first), and all texts for the LM ([DEC] first)."""
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
    """Replace the first token of texts [B, T]."""
    return torch.cat([torch.full_like(input_ids[:, :1], first), input_ids[:, 1:]], dim=1)
