"""NLVR2: is a sentence true of two photos (original: train_nlvr.py, models/blip_nlvr.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.data.loader import SampleRef
from blip.data.sources import Reading, Source
from blip.data.task_rows import image_pair
from blip.eval.nlvr import NlvrEval
from blip.model.blip import BlipModel
from blip.runtime import mixed_bits
from blip.tasks.base import Batch, Best, ParamGroup, Report, Split, Step
from blip.tasks.images import Augment, ImageLoader
from blip.tasks.initialize import FineTune, InitializedModel, Start, save_model, start_model
from blip.tasks.validation import evaluated


@dataclass(frozen=True)
class TrainingSample:
    """Two photos [2, 3, S, S], a sentence, 1 = true."""

    pixel_values: Tensor
    sentence: str
    label: int


class TrainingPairs:
    """Augmented pairs of photos with a sentence; half of them swapped, and with them the words left and right."""

    def __init__(self, source: Source, pixels: ImageLoader) -> None:
        self.source, self.pixels = source, pixels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        record = self.source[ref.index]
        pair = image_pair(record, draw=float(np.random.RandomState(ref.seed % 2**32).random_sample()))
        both = [self.pixels(record, image, mixed_bits(ref.seed, side)) for side, image in enumerate(pair.images)]
        return TrainingSample(torch.stack(both), pair.sentence, pair.label)


@dataclass(frozen=True, kw_only=True)
class NlvrTask:
    """Cross entropy of true and false; the two cross-attentions start from the one of a pre-trained model."""

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    reading: Reading = field(default_factory=Reading)
    start: Start = field(default_factory=Start)
    tune: FineTune = field(default_factory=FineTune)
    max_length: int = 512  # original: no limit but the model's
    augment: Augment = field(default_factory=Augment)
    views: str | None = None
    evaluation: NlvrEval = field(default_factory=NlvrEval)
    name: str = "nlvr"
    best: Best | None = field(default_factory=lambda: Best(("accuracy",)))

    @cached_property
    def _started(self) -> InitializedModel:
        return start_model(self.start, "nlvr")

    @cached_property
    def _shown(self) -> Source:
        """What evaluations look at; read once, however many there are."""
        return self.reading.open(self.val or self.data, check=image_pair)

    def build_model(self) -> nn.Module:
        return self.tune.prepare(self._started)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return self.tune.groups(model)

    def dataset(self, split: Split) -> TrainingPairs:
        pixels = ImageLoader(self.augment.transform(self._started.config), self.views)
        return TrainingPairs(self.reading.open(self.data, check=image_pair), pixels)

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        limit = min(self.max_length, self._started.config.text.max_length)
        encoded = self._started.tokenizer.encode([s.sentence for s in samples], first="enc", max_length=limit)
        return {
            "pixel_values": torch.stack([s.pixel_values for s in samples]),
            "input_ids": encoded.input_ids,
            "attention_mask": encoded.attention_mask,
            "labels": torch.tensor([s.label for s in samples]),
        }

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        blip = cast(BlipModel, model)
        pixels = batch["pixel_values"]  # [B, 2, 3, S, S]
        first, second = blip.encode_image(torch.cat([pixels[:, 0], pixels[:, 1]])).chunk(2)
        logits = blip.reason(batch["input_ids"], batch["attention_mask"], first, second)
        loss = F.cross_entropy(logits.float(), batch["labels"])
        return {"loss": loss, "ce": loss}

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        tokenizer, unseen = self._started.tokenizer, self.val is not None
        return evaluated(self.evaluation, cast(BlipModel, model), tokenizer, self._shown, limit, unseen=unseen)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(cast(BlipModel, model), self._started, folder)
