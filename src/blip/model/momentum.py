"""Momentum twin and feature queue (MoCo, as ALBEF and BLIP use them): state of training, not of the model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.distributed import local_shard
from blip.model.blip import BlipModel
from blip.model.lora import NAMES

TEMPERATURE_RANGE = (0.001, 0.5)


class MomentumEncoders(nn.Module):
    """A slowly following copy of the four modules that make image and text features.

    Source: models/blip_pretrain.py `_momentum_update` (momentum 0.995; parameters follow, buffers do not).
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
        """m <- momentum * m + (1 - momentum) * p, for every parameter of the four modules (of its shard, where cut)."""
        for name in ("vision", "vision_proj", "encoder", "text_proj"):
            twins = [local_shard(p.detach()) for p in getattr(self, name).parameters()]
            online = [local_shard(p.detach()) for p in getattr(model, name).parameters()]
            torch._foreach_mul_(twins, self.momentum)
            torch._foreach_add_(twins, online, alpha=1 - self.momentum)

    def image_features(self, pixel_values: Tensor, grid: Tensor | None = None) -> Tensor:
        """pixel_values -> [B, E] of unit length. grid: what a frozen stem (the same in both) has already read."""
        if grid is None or self.vision.stem is None:
            states = self.vision(pixel_values, first_only=True)
        else:
            states = self.vision.encode_grid(grid, self.vision.stem.class_tokens(grid), first_only=True)
        return F.normalize(self.vision_proj(states[:, 0]), dim=-1)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Text alone -> [B, E] of unit length."""
        states = self.encoder(input_ids, attention_mask, first_only=True)
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)


class FeatureQueue(nn.Module):
    """The last `size` momentum features of both sides, with the ids of their images (-100 = none yet).

    original: its size must be a multiple of the global batch; ours wraps round, so any size goes with any batch.
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
        """Overwrites the oldest columns with features [B, E] (gathered over all ranks by the caller)."""
        size = self.image.shape[1]
        image_features, text_features = image_features[-size:], text_features[-size:]
        columns = (int(self.pointer) + torch.arange(len(image_features), device=self.image.device)) % size
        self.image[:, columns] = image_features.T.to(self.image.dtype)
        self.text[:, columns] = text_features.T.to(self.text.dtype)
        if ids is not None:
            self.ids[0, columns] = ids[-size:]
        self.pointer[0] = (int(self.pointer) + len(image_features)) % size


class MomentumModel(nn.Module):
    """What contrastive training steps: the model, its momentum twin, the queue. Only `model` is what users keep.

    training: momentum weights and queues that a file of the original held. A queue is taken only with a whole twin, and
    only where it is of this size.
    """

    def __init__(
        self, model: BlipModel, queue_size: int, momentum: float = 0.995, training: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.momentum_model = MomentumEncoders(model, momentum)
        self.queue = FeatureQueue(model.config.proj_width, queue_size)
        self._take(training or {})

    @torch.no_grad()
    def before_step(self) -> None:
        """What the original does first in a step: the temperature stays in its range, the twin follows the model."""
        self.model.temperature.clamp_(*TEMPERATURE_RANGE)
        self.momentum_model.update(self.model)

    def _take(self, training: Mapping[str, Tensor]) -> None:
        twins = {name.removeprefix("momentum."): t for name, t in training.items() if name.startswith("momentum.")}
        missing = self.momentum_model.load_state_dict(twins, strict=False).missing_keys
        if any(not name.endswith(NAMES) for name in missing):
            return
        for name, buffer in (("image_queue", self.queue.image), ("text_queue", self.queue.text)):
            if name in training and training[name].shape == buffer.shape:
                buffer.copy_(training[name])
