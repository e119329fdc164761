"""Networks with random weights, photos and texts for the checks and the rates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.session import Session
from blip.checkpoint.load import Loaded
from blip.io.image import prepare
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip.torch_backend import TorchBackend
from blip_lite.config import BlipConfig, Family, TextConfig, VisionConfig, published_config, with_image_size
from blip_lite.image import read, square
from blip_lite.model import Model

FOLDER = Path(__file__).parents[2] / "examples"
WORDS = ("a", "man", "woman", "dog", "child", "red", "ball", "street", "car", "running", "in", "near", "the", "two")


def config_of(session: Session, family: Family, size: int) -> BlipConfig:
    """ViT-B without dropout, or a network of a few layers."""
    config = with_image_size(published_config(family), size)
    if session.small:
        vision = VisionConfig(image_size=64, width=96, num_layers=3, num_heads=3, mlp_width=192)
        text = TextConfig(width=64, num_layers=3, num_heads=2, mlp_width=128)
        config = replace(config, vision=vision, text=text)
    return replace(config, text=replace(config.text, dropout=0.0), vision=replace(config.vision, drop_path=0.0))


def random_model(config: BlipConfig, device: torch.device | None = None, seed: int = 0) -> BlipModel:
    """A network with seeded weights, created on a device."""
    torch.manual_seed(seed)
    with torch.device(device or "cpu"):
        model = BlipModel(config).eval()
    for name in ("encoder", "decoder"):
        if hasattr(model, name):  # spreads the scores of tokens: random ones differ by less than rounding
            getattr(model, name).embed.word.weight.data.mul_(5)
    return model


def as_public(model: BlipModel, config: BlipConfig) -> Model[TorchBackend]:
    """The model as `blip.load` returns it."""
    return Model(
        TorchBackend(
            Loaded(model=model, config=config, tokenizer=Tokenizer.from_config(config), name="random", training={})
        )
    )


@cache
def _images() -> list[Any]:
    return [read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in (".png", ".jpg")]


def photos(config: BlipConfig, count: int) -> Tensor:
    """pixel_values [count, 3, S, S] of the example photos, over and over."""
    size, images = config.vision.image_size, _images()
    values = prepare(images[:count], size=size, mean=config.image_mean, std=config.image_std)
    return values[torch.arange(count) % len(values)]


def squares(size: int, count: int) -> list[NDArray[np.uint8]]:
    """The same photos, [S, S, 3] each."""
    images = [np.asarray(square(image, size)) for image in _images()[:count]]
    return [images[i % len(images)] for i in range(count)]


def texts(count: int, words: Sequence[int] = (6, 7, 8, 9, 10, 10, 11, 12, 13, 14, 17)) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.choice(words))) for _ in range(count)]
