"""Pre-training with the three losses of the paper: ITC, ITM and LM (section 3.2; original: pretrain.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from blip.data.sources import Reading, Source
from blip.eval.caption import COCO_BEAM, CaptionEval
from blip.eval.retrieval import RetrievalEval
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.tasks.base import Batch, Best, Step, TaskInfo, alpha_ramp, global_token_mean
from blip.tasks.contrastive import PRETRAIN_NEGATIVES, Negatives, image_text_losses, validation_losses
from blip.tasks.epoch_lists import EpochLists
from blip.tasks.images import Augment, TrainingImages, TrainingSample, collate_pairs
from blip.tasks.import_path import build_from_path
from blip.tasks.initialize import FineTune, Start
from blip.tasks.setup import Setup
from blip_lite.decoding import Beam


@dataclass(frozen=True)
class PretrainOutputs:
    """Intermediate results of one batch, for extra losses. grid: input of the ViT's blocks [B, C, s, s]."""

    model: BlipModel
    batch: Batch
    step: Step
    grid: Tensor
    image_embeds: Tensor  # [B, N, D]
    text_features: Tensor  # [B, E], unit length


class ExtraLoss(Protocol):
    """Dataclass of an additional loss, built from the options under `extra_losses.NAME`."""

    def prepare(self, task: PretrainTask) -> None:
        """Load what the loss needs; called once, before the first step."""
        ...

    def __call__(self, outputs: PretrainOutputs) -> Tensor:
        """Return the loss, with its weight."""
        ...


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """ITC + ITM + LM with momentum distillation (alpha ramps over the first two epochs).

    web: folder of further lists, one per epoch (`blip.tasks.epoch_lists`). same_image_ids: images that occur twice in
    batch or queue are positives of each other (off in the original). lm_weight 0: the LM loss is left out.
    whole_batch: losses are computed over the whole batch of a step, whatever the number of processes (original: each
    process contrasts its own share, and all processes count alike). extra_losses: by name, the options of losses from
    outside this package, of which `class` is the import path (`package.module:Class`) of an `ExtraLoss`.
    """

    data: str | Sequence[str]
    web: str | None = None
    val: str | Sequence[str] | None = None
    reading: Reading = field(default_factory=Reading)
    start: Start = field(default_factory=Start)
    queue_size: int = 57600
    momentum: float = 0.995
    alpha: float = 0.4
    max_length: int = 30
    max_words: int = 30
    texts_per_image: int = 1
    augment: Augment = field(default_factory=lambda: Augment(min_scale=0.2))
    same_image_ids: bool = False
    negatives: Negatives = PRETRAIN_NEGATIVES
    lm_weight: float = 1.0
    extra_losses: Mapping[str, Any] = field(default_factory=dict)
    whole_batch: bool = False
    tune: FineTune = field(default_factory=FineTune)
    decoding: Beam = COCO_BEAM
    best: Best | None = None

    name: ClassVar[str] = "pretrain"
    info: ClassVar[TaskInfo] = TaskInfo(
        description="contrast, match and describe images", columns="image, caption", usage="caption PHOTO"
    )

    @cached_property
    def setup(self) -> Setup:
        retrieval = RetrievalEval(k=0, max_length=self.max_length)
        captions = CaptionEval(decoding=self.decoding)
        return Setup(
            task=self,
            family="pretrain",
            evaluations=(captions, retrieval) if self.lm_weight else (retrieval,),
            need_text=True,
            needs_all_rows=False,
            queue_size=self.queue_size,
            momentum=self.momentum,
        )

    @cached_property
    def _extra_losses(self) -> dict[str, ExtraLoss]:
        losses: dict[str, ExtraLoss] = {
            name: build_from_path(options, f"extra_losses.{name}") for name, options in self.extra_losses.items()
        }
        for loss in losses.values():
            loss.prepare(self)
        return losses

    def dataset(self, source: Source | None = None) -> TrainingImages | EpochLists:
        _ = self._extra_losses  # their errors are reported before training starts
        loader = self.augment.loader(self.setup.config, varied=source is None)
        rows, options = self.setup.rows(source), (loader, self.texts_per_image, self.max_words)
        if self.web is None or source is not None:
            return TrainingImages(rows, *options)
        return EpochLists(rows, self.web, self.reading, *options)

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        return collate_pairs(samples, self.setup.initialized.tokenizer, self.max_length)

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        momentum_model = cast(MomentumModel, model)
        image_ids = batch["image_ids"] if self.same_image_ids else None
        alpha = alpha_ramp(self.alpha, step, epochs=2)
        pairs = image_text_losses(momentum_model, batch, alpha, self.negatives, image_ids, self.whole_batch)
        losses = {"itc": pairs.itc, "itm": pairs.itm}
        blip = momentum_model.model
        if self.lm_weight:
            lm = blip.lm_loss(batch["lm_ids"], batch["lm_mask"], batch["labels"], pairs.image_embeds)
            losses["lm"] = self.lm_weight * (global_token_mean(lm, batch["labels"]) if self.whole_batch else lm)
        outputs = PretrainOutputs(blip, batch, step, pairs.grid, pairs.image_embeds, pairs.text_features)
        losses |= {name: extra(outputs) for name, extra in self._extra_losses.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def validation_loss(self, model: BlipModel, batch: Batch) -> Tensor:
        pairs = validation_losses(model, batch, batch["image_ids"])
        lm = model.lm_loss(batch["lm_ids"], batch["lm_mask"], batch["labels"], pairs.image_embeds)
        return pairs.itc + pairs.itm + self.lm_weight * lm
