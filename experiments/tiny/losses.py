"""Extra losses of the pre-training that made `tiny`, named by import path under `extra_losses` in its configs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from blip.distributed import gather, gather_with_grad, rank, world_size
from blip.model.stem import ConvStem
from blip.tasks.base import global_token_mean
from blip.tasks.pretrain import PretrainOutputs, PretrainTask
from blip.tasks.reward import CiderReward, Reward, self_critical_loss
from blip_lite.errors import ConfigError
from blip_lite.tokenizer import clean_caption
from experiments.tiny.changed_captions import change_caption
from experiments.tiny.distillation import TeacherVectors, read_teacher_vectors, similarity_loss
from experiments.tiny.synthetic_features import SyntheticData, read_synthetic_data

TEACHER_TEMPERATURE = 0.1


@dataclass
class SyntheticCaptions:
    """LM loss of captions without images, over synthetic features. per_image: captions per image of the batch."""

    folder: str
    per_image: float = 1.0
    task: PretrainTask = field(init=False, repr=False)
    data: SyntheticData = field(init=False, repr=False)

    def prepare(self, task: PretrainTask) -> None:
        self.task, self.data = task, read_synthetic_data(Path(self.folder))

    def __call__(self, outputs: PretrainOutputs) -> Tensor:
        task, vision, grid = self.task, outputs.model.vision, outputs.grid.detach()
        generator = torch.Generator().manual_seed(outputs.step.index)
        first, shares = 0, 1
        if task.whole_batch:
            grid, first, shares = gather(grid), rank(), world_size()
        count = max(1, int(len(grid) * self.per_image))
        grids, captions = self.data.draw(count, grid, generator)
        share = slice(count * first // shares, count * (first + 1) // shares)
        empty = share.start == share.stop  # fewer captions than processes: a dummy row keeps collectives in sync
        share = slice(0, 1) if empty else share
        cleaned = [clean_caption(caption, task.max_words) for caption in captions[share]]
        encoded = task.setup.initialized.tokenizer.encode(cleaned, first="dec", max_length=task.max_length)
        ids, mask = (x.to(grid.device) for x in encoded)
        class_tokens = cast(ConvStem, vision.stem).class_tokens(grids[share])
        embeds = vision.encode_grid(grids[share], class_tokens)
        labels = ids.masked_fill(mask == 0, -100)
        lm = outputs.model.lm_loss(ids, mask, labels, embeds)
        return global_token_mean(lm, labels[:0] if empty else labels) if task.whole_batch else lm


@dataclass
class Distillation:
    """Similarities between the captions of a batch follow those of a sentence encoder."""

    folder: str
    weight: float = 1.0
    task: PretrainTask = field(init=False, repr=False)
    teacher: TeacherVectors = field(init=False, repr=False)

    def prepare(self, task: PretrainTask) -> None:
        self.task, self.teacher = task, read_teacher_vectors(Path(self.folder))

    def __call__(self, outputs: PretrainOutputs) -> Tensor:
        features = outputs.text_features
        teacher = self.teacher.lookup(outputs.batch["texts"]).to(features.device)
        if self.task.whole_batch:
            features, teacher = gather_with_grad(features), gather(teacher)
        return self.weight * similarity_loss(features, teacher, TEACHER_TEMPERATURE)


@dataclass
class CiderLoss:
    """Self-critical loss of sampled captions (`blip.tasks.reward`)."""

    reward: Reward = field(default_factory=Reward)
    task: PretrainTask = field(init=False, repr=False)
    cider: CiderReward = field(init=False, repr=False)

    def prepare(self, task: PretrainTask) -> None:
        if task.web is not None:
            raise ConfigError("web: not with the CIDEr loss, which needs the captions of all images")
        self.task, self.cider = task, CiderReward.from_source(task.setup.training_source)

    def __call__(self, outputs: PretrainOutputs) -> Tensor:
        loss, _ = self_critical_loss(
            outputs.model,
            self.task.setup.initialized.tokenizer,
            outputs.image_embeds,
            outputs.batch["image_ids"].tolist(),
            self.cider,
            self.reward,
            outputs.step.index,
            self.task.whole_batch,
        )
        return self.reward.weight * loss


@dataclass
class ChangedCaptions:
    """ITM loss of the batch's images with their captions made false by one change (`changed_captions`)."""

    weight: float = 1.0
    task: PretrainTask = field(init=False, repr=False)

    def prepare(self, task: PretrainTask) -> None:
        if task.whole_batch:
            raise ConfigError("whole_batch: not with the loss of changed captions")
        self.task = task

    def __call__(self, outputs: PretrainOutputs) -> Tensor:
        source, rng = self.task.setup.training_source, Random(outputs.step.index * world_size() + rank())
        rows, texts = [], []
        for row, index in enumerate(outputs.batch["image_ids"].tolist()):
            others = [clean_caption(other, self.task.max_words) for other in source[index].texts]
            changed = change_caption(outputs.batch["texts"][row], rng, others=others)
            if changed is not None:
                rows.append(row)
                texts.append(changed.text)
        embeds = outputs.image_embeds[rows]
        encoded = self.task.setup.initialized.tokenizer.encode(texts, first="enc", max_length=self.task.max_length)
        ids, mask = (x.to(embeds.device) for x in encoded)
        encoder = outputs.model.encoder
        states = encoder(ids, mask, cross=encoder.cross_keys_values(embeds), first_only=True)
        logits = outputs.model.match_logits(states).float()
        return self.weight * F.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.long, device=logits.device))
