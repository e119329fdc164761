"""NLVR2: whether a sentence is true of two images (original: train_nlvr.py, models/blip_nlvr.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, cast

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
from blip.tasks.base import Batch, Best, Step, TaskInfo
from blip.tasks.images import Augment, ImageLoader
from blip.tasks.initialize import FineTune, Start
from blip.tasks.setup import Setup


@dataclass(frozen=True)
class PairSample:
    """Two images [2, 3, S, S] with a sentence; label 1 = true."""

    pixel_values: Tensor
    sentence: str
    label: int


class TrainingPairs:
    """Augmented image pairs with a sentence; half of them swapped, together with the words left and right."""

    def __init__(self, source: Source, loader: ImageLoader) -> None:
        self.source, self.loader = source, loader

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, ref: SampleRef) -> PairSample:
        sample = self.source[ref.index]
        pair = image_pair(sample, draw=float(np.random.RandomState(ref.seed % 2**32).random_sample()))
        images = [self.loader(sample, image, mixed_bits(ref.seed, side)) for side, image in enumerate(pair.images)]
        return PairSample(torch.stack(images), pair.sentence, pair.label)


@dataclass(frozen=True, kw_only=True)
class NlvrTask:
    """Cross entropy of true and false; both cross-attentions start from the one of a pre-trained model."""

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    reading: Reading = field(default_factory=Reading)
    start: Start = field(default_factory=Start)
    tune: FineTune = field(default_factory=FineTune)
    max_length: int = 512  # original: no limit but the model's
    augment: Augment = field(default_factory=Augment)
    evaluation: NlvrEval = field(default_factory=NlvrEval)
    best: Best | None = field(default_factory=lambda: Best(("accuracy",)))

    name: ClassVar[str] = "nlvr"
    info: ClassVar[TaskInfo] = TaskInfo(
        description="judge statements about two images",
        columns="images (two), sentence, label",
        usage="ask PHOTO --pair OTHER -q STATEMENT",
        learning_rate=3e-5,
    )

    @cached_property
    def setup(self) -> Setup:
        return Setup(
            task=self,
            family="nlvr",
            evaluations=(self.evaluation,),
            check=image_pair,
        )

    def dataset(self, source: Source | None = None) -> TrainingPairs:
        return TrainingPairs(self.setup.rows(source), self.augment.loader(self.setup.config, varied=source is None))

    def collate(self, samples: Sequence[PairSample]) -> Batch:
        limit = min(self.max_length, self.setup.config.text.max_length)
        sentences = [s.sentence for s in samples]
        encoded = self.setup.initialized.tokenizer.encode(sentences, first="enc", max_length=limit)
        return {
            "pixel_values": torch.stack([s.pixel_values for s in samples]),
            "input_ids": encoded.input_ids,
            "attention_mask": encoded.attention_mask,
            "labels": torch.tensor([s.label for s in samples]),
        }

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        loss = self.validation_loss(cast(BlipModel, model), batch)
        return {"loss": loss, "ce": loss}

    def validation_loss(self, model: BlipModel, batch: Batch) -> Tensor:
        pixels = batch["pixel_values"]  # [B, 2, 3, S, S]
        first, second = model.encode_image(torch.cat([pixels[:, 0], pixels[:, 1]])).chunk(2)
        logits = model.reason(batch["input_ids"], batch["attention_mask"], first, second)
        return F.cross_entropy(logits.float(), batch["labels"])
