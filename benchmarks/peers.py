"""Our model with seeded random weights, plain and packed, and the same weights in the classes of `transformers`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from blip.checkpoint.hf import hf_config
from blip.checkpoint.state_dict import from_blip
from blip.io.image import prepare
from blip.model.blip import BlipModel
from blip.model.int8_linear import pack_int8
from blip.model.mkldnn_linear import pack
from blip.tokenizer import Tokenizer
from blip_lite.config import BlipConfig, Family, published_config, with_image_size
from blip_lite.image import read

PHOTOS = sorted(p for p in (Path(__file__).parent.parent / "examples").iterdir() if p.suffix in (".png", ".jpg"))


@dataclass(frozen=True)
class Pair:
    """One set of weights in three models: ours as it trains, ours packed, theirs."""

    plain: BlipModel
    ours: BlipModel
    peer: Any
    config: BlipConfig
    tokenizer: Tokenizer

    def photos(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """pixel_values [count, 3, S, S] of the example photos, over and over."""
        images = [read(PHOTOS[i % len(PHOTOS)]) for i in range(count)]
        config = self.config
        values = prepare(images, size=config.vision.image_size, mean=config.image_mean, std=config.image_std)
        return values.to(dtype)

    def in_8_bits(self) -> BlipModel:
        """The same weights, multiplied in 8 bits."""
        model = _shared_copy(self.plain)
        pack_int8(model)
        return model


def pair(family: Family, image_size: int, dtype: torch.dtype = torch.float32) -> Pair:
    """ViT-B at full size with random weights, without dropout."""
    torch.manual_seed(0)
    config = with_image_size(published_config(family), image_size)
    config = replace(config, text=replace(config.text, dropout=0.0), vision=replace(config.vision, drop_path=0.0))
    ours = BlipModel(config).eval()
    for text in (getattr(ours, name) for name in ("encoder", "decoder") if hasattr(ours, name)):
        text.embed.word.weight.data.mul_(5)  # spreads the scores of tokens: random ones differ by less than rounding
    peer = _peer(ours, config).to(dtype)
    ours.to(dtype)
    plain = _shared_copy(ours)
    pack(ours)
    return Pair(plain, ours, peer, config, Tokenizer.from_config(config))


def _shared_copy(model: BlipModel) -> BlipModel:
    """Another model with the same weights in memory."""
    other = copy.deepcopy(model)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def _peer(model: BlipModel, config: BlipConfig) -> Any:
    values = hf_config(config)
    values["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values["text_config"] |= {"label_smoothing": config.text.label_smoothing}
    peer = getattr(transformers, values["architectures"][0])(transformers.BlipConfig(**values))
    missing, unexpected = peer.load_state_dict(from_blip(model.state_dict(), config, "hf"), strict=False)
    if unexpected or any("position_ids" not in name and ".decoder." not in name for name in missing):
        raise AssertionError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    peer.tie_weights()
    return peer.eval()
