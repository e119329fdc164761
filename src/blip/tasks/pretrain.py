"""Pre-training with the three losses of the paper: ITC, ITM and LM (section 3.2; original: pretrain.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from blip.data.sources import open_source
from blip.model.blip import BlipModel
from blip.model.decoding import Beam
from blip.model.momentum import Twinned
from blip.model.stem import ConvStem
from blip.tasks.base import Batch, Best, ParamGroup, Report, Split, Step, alpha_ramp
from blip.tasks.contrastive import PRETRAIN_NEGATIVES, Negatives, contrast, draw, match
from blip.tasks.images import Sample, TrainingPhotos, collate_pairs, train_transform, with_first
from blip.tasks.imagined import Imagined, read_imagined
from blip.tasks.measures import caption_report, retrieval_report
from blip.tasks.reward import CiderReward, Reward, self_critical_loss
from blip.tasks.start import Start, Started, freeze, rated_groups, save_model, start_model
from blip.tasks.teacher import Teacher, likeness_loss, read_teacher
from blip.tokenizer import clean_caption

TEACHER_TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """ITC + ITM + LM with momentum distillation (alpha ramps over the first two epochs).

    data, val: sources as `blip.data.open_source` takes them. same_image_ids: photos that occur twice in batch or
    queue are positives of each other (off in the original). views: what a frozen stem has read
    (`TrainingPhotos`). imagined: captions without photos (`blip.tasks.imagined`).
    teacher: vectors of the captions by a sentence encoder (`blip.tasks.teacher`); lm: whether the decoder learns too.
    freeze: parameter name prefixes that are not trained; rates: factors on the learning rate by name pattern.
    """

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    start: Start = field(default_factory=Start)
    queue_size: int = 57600
    momentum: float = 0.995
    alpha: float = 0.4
    max_length: int = 30
    max_words: int = 30
    min_scale: float = 0.2
    texts_per_image: int = 1
    views: str | None = None
    same_image_ids: bool = False
    rand_augment: bool = True
    negatives: Negatives = PRETRAIN_NEGATIVES
    imagined: str | None = None
    imagined_per_image: float = 1.0
    teacher: str | None = None
    teacher_weight: float = 1.0
    lm: bool = True
    reward: Reward | None = None
    freeze: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    decoding: Beam = field(default_factory=lambda: Beam(num_beams=3, max_length=20, min_length=5))
    name: str = "pretrain"
    best: Best | None = None

    @cached_property
    def _started(self) -> Started:
        return start_model(self.start, "pretrain")

    @cached_property
    def _reward(self) -> CiderReward:
        source = open_source(self.data, require_text=True)
        return CiderReward([source[i].texts for i in range(len(source))])

    @cached_property
    def _imagined(self) -> Imagined | None:
        return None if self.imagined is None else read_imagined(Path(self.imagined))

    @cached_property
    def _teacher(self) -> Teacher | None:
        return None if self.teacher is None else read_teacher(Path(self.teacher))

    def build_model(self) -> nn.Module:
        freeze(self._started.model, self.freeze)
        return Twinned(self._started.model, self.queue_size, self.momentum)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return rated_groups(model, self.rates)

    def dataset(self, split: Split) -> TrainingPhotos:
        return TrainingPhotos(
            open_source(self.data, require_text=True),
            train_transform(self._started.config, self.min_scale, self.rand_augment),
            texts_per_image=self.texts_per_image,
            max_words=self.max_words,
            views=self.views,
        )

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return collate_pairs(samples, self._started.tokenizer, self.max_length)

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        twinned = cast(Twinned, model)
        online = twinned.online
        ids, mask = batch["input_ids"], batch["attention_mask"]
        image_ids = batch["image_ids"] if self.same_image_ids else None
        grid, guesses = online.vision.read_pixels(batch["pixel_values"])
        image_embeds = online.vision.encode_grid(grid, guesses)
        alpha = alpha_ramp(self.alpha, step, epochs=2)
        frozen = None if grid.requires_grad else grid
        itc = contrast(twinned, batch["pixel_values"], image_embeds, ids, mask, alpha, image_ids, frozen)
        drawn = draw(itc, online.temperature, self.negatives, image_ids)
        fused_ids = with_first(ids, self._started.config.text.enc_id)
        itm, _ = match(online, fused_ids, mask, image_embeds, drawn, self.negatives.all_ranks)
        losses = {"itc": itc.loss, "itm": itm}
        if self.lm:
            losses["lm"] = online.lm_loss(batch["lm_ids"], batch["lm_mask"], batch["labels"], image_embeds)
        if self._teacher is not None:
            taught = self._teacher.of(batch["texts"]).to(ids.device)
            losses["teacher"] = self.teacher_weight * likeness_loss(itc.text_features, taught, TEACHER_TEMPERATURE)
        if self.reward is not None:
            losses["critical"] = self._critical(online, batch, image_embeds, step)
        if self._imagined is not None:
            losses["imagined"] = self._imagined_lm(online, self._imagined, grid.detach(), step)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _critical(self, model: BlipModel, batch: Batch, image_embeds: Tensor, step: Step) -> Tensor:
        assert self.reward is not None
        images = batch["image_ids"].tolist()
        loss, _ = self_critical_loss(
            model, self._started.tokenizer, image_embeds, images, self._reward, self.reward, step.index
        )
        return self.reward.weight * loss

    def _imagined_lm(self, model: BlipModel, imagined: Imagined, grid: Tensor, step: Step) -> Tensor:
        generator = torch.Generator().manual_seed(step.index)
        count = max(1, int(len(grid) * self.imagined_per_image))
        grids, captions = imagined.draw(count, grid, generator)
        cleaned = [clean_caption(c, self.max_words) for c in captions]
        encoded = self._started.tokenizer.encode(cleaned, first="dec", max_length=self.max_length)
        ids, mask = (x.to(grid.device) for x in encoded)
        stem = cast(ConvStem, model.vision.stem)
        embeds = model.vision.encode_grid(grids, stem.guess(grids))
        return model.lm_loss(ids, mask, ids.masked_fill(mask == 0, -100), embeds)

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        if self.val is None:
            return Report(metrics={}, rows=[])
        online = cast(Twinned, model).online
        source = open_source(self.val, require_text=True)
        captions = Report(metrics={})
        if self.lm:
            captions = caption_report(online, self._started.tokenizer, source, self.decoding, limit)
        retrieval = retrieval_report(online, self._started.tokenizer, source, self.max_length, limit)
        return Report(metrics={**captions.metrics, **retrieval.metrics}, rows=captions.rows)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(cast(Twinned, model).online, self._started, folder)
