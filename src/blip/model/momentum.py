"""Momentum encoders and feature queue (MoCo, as used by ALBEF and BLIP): training state, not part of the model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.distributed import local_shard
from blip.model.blip import BlipModel
from blip.model.lora import NAMES as LORA_NAMES

TEMPERATURE_RANGE = (0.001, 0.5)


class MomentumEncoders(nn.Module):
    """Exponential moving average of the four modules that compute image and text features.

    Source: models/blip_pretrain.py `_momentum_update` (momentum 0.995; parameters only, no buffers).
    """

    def __init__(self, model: BlipModel, momentum: float = 0.995) -> None:
        super().__init__()
        self.momentum = momentum
        self.vision = deepcopy(model.vision)
        self.vision_proj = deepcopy(model.vision_proj)
        self.encoder = deepcopy(model.encoder)
        self.text_proj = deepcopy(model.text_proj)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: BlipModel) -> None:
        """m <- momentum * m + (1 - momentum) * p for each parameter (or local shard) of the four modules."""
        for name in ("vision", "vision_proj", "encoder", "text_proj"):
            averages = [local_shard(p.detach()) for p in getattr(self, name).parameters()]
            current = [local_shard(p.detach()) for p in getattr(model, name).parameters()]
            torch._foreach_lerp_(averages, current, 1 - self.momentum)  # one pass: 1.6 times as fast as two

    def image_features(self, pixel_values: Tensor, grid: Tensor | None = None) -> Tensor:
        """pixel_values -> [B, E] of unit length. grid: output of a frozen stem (the same in both models) for them."""
        if grid is None or self.vision.stem is None:
            states = self.vision(pixel_values, first_only=True)
        else:
            states = self.vision.encode_grid(grid, self.vision.stem.class_tokens(grid), first_only=True)
        return F.normalize(self.vision_proj(states[:, 0]), dim=-1)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids [B, T] ([CLS] first) -> [B, E] of unit length."""
        states = self.encoder(input_ids, attention_mask, first_only=True)
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)


class FeatureQueue(nn.Module):
    """The last `size` momentum features of images and texts, with the ids of their images (-100 = empty).

    In the original the size must be a multiple of the global batch; this one wraps around, so any size is allowed.
    """

    image: Tensor  # [E, Q]
    text: Tensor  # [E, Q]
    ids: Tensor  # [1, Q]
    pointer: Tensor  # [1]

    def __init__(self, proj_width: int, size: int) -> None:
        super().__init__()
        self.register_buffer("image", F.normalize(torch.randn(proj_width, size), dim=0))
        self.register_buffer("text", F.normalize(torch.randn(proj_width, size), dim=0))
        self.register_buffer("ids", torch.full((1, size), -100))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def push(self, image_features: Tensor, text_features: Tensor, ids: Tensor | None = None) -> None:
        """Overwrite the oldest columns with features [B, E] (gathered over all ranks by the caller)."""
        size = self.image.shape[1]
        image_features, text_features = image_features[-size:], text_features[-size:]
        columns = (int(self.pointer) + torch.arange(len(image_features), device=self.image.device)) % size
        self.image[:, columns] = image_features.T.to(self.image.dtype)
        self.text[:, columns] = text_features.T.to(self.text.dtype)
        if ids is not None:
            self.ids[0, columns] = ids[-size:]
        self.pointer[0] = (int(self.pointer) + len(image_features)) % size


class MomentumModel(nn.Module):
    """Model, momentum encoders and queue of contrastive training. Only `model` is saved for users.

    training: momentum weights and queues from a file of the original. A queue is loaded only if all momentum weights
    are present and its size matches.
    """

    def __init__(
        self, model: BlipModel, queue_size: int, momentum: float = 0.995, training: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.momentum_encoders = MomentumEncoders(model, momentum)
        self.queue = FeatureQueue(model.config.proj_width, queue_size)
        self._load(training or {})

    @torch.no_grad()
    def before_step(self) -> None:
        """Start of a step, as in the original: clamp the temperature, update the momentum encoders."""
        self.model.temperature.clamp_(*TEMPERATURE_RANGE)
        self.momentum_encoders.update(self.model)

    def _load(self, training: Mapping[str, Tensor]) -> None:
        weights = {name.removeprefix("momentum."): t for name, t in training.items() if name.startswith("momentum.")}
        missing = self.momentum_encoders.load_state_dict(weights, strict=False).missing_keys
        if any(not name.endswith(LORA_NAMES) for name in missing):
            return
        for name, buffer in (("image_queue", self.queue.image), ("text_queue", self.queue.text)):
            if name in training and training[name].shape == buffer.shape:
                buffer.copy_(training[name])
