"""Pre-training with the three losses of the paper: ITC, ITM and LM (section 3.2; original: pretrain.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from blip.data.sources import Reading, Source
from blip.distributed import gather, gather_with_grad, rank, world_size
from blip.eval.caption import COCO_BEAM, CaptionEval
from blip.eval.retrieval import RetrievalEval
from blip.eval.run import run
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.model.stem import ConvStem
from blip.tasks.base import Batch, Best, ParamGroup, Report, Split, Step, alpha_ramp, of_whole_batch
from blip.tasks.contrastive import PRETRAIN_NEGATIVES, Negatives, contrast, draw, match
from blip.tasks.epoch_lists import EpochLists
from blip.tasks.images import Augment, ImageLoader, TrainingPhotos, TrainingSample, collate_pairs, with_first
from blip.tasks.imagined import Imagined, read_imagined
from blip.tasks.initialize import FineTune, InitializedModel, Start, save_model, start_model
from blip.tasks.reward import CiderReward, Reward, self_critical_loss
from blip.tasks.teacher import Teacher, likeness_loss, read_teacher
from blip_lite.decoding import Beam
from blip_lite.errors import ConfigError
from blip_lite.tokenizer import clean_caption

TEACHER_TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """ITC + ITM + LM with momentum distillation (alpha ramps over the first two epochs).

    data, val: sources as `blip.data.open_source` takes them. web: a folder of further lists, of which every epoch
    takes one (`blip.tasks.epoch_lists`). same_image_ids: photos that occur twice in batch or
    queue are positives of each other (off in the original). views: what a frozen stem has read
    (`blip.tasks.images.ImageLoader`). imagined: captions without photos (`blip.tasks.imagined`).
    teacher: vectors of the captions by a sentence encoder (`blip.tasks.teacher`); lm: whether the decoder learns too.
    whole_batch: the losses of a step are those of its whole batch, however many processes share it (original: each
    process contrasts its own share, and the mean over processes counts every process alike).
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
    views: str | None = None
    same_image_ids: bool = False
    negatives: Negatives = PRETRAIN_NEGATIVES
    imagined: str | None = None
    imagined_per_image: float = 1.0
    teacher: str | None = None
    teacher_weight: float = 1.0
    lm: bool = True
    reward: Reward | None = None
    whole_batch: bool = False
    tune: FineTune = field(default_factory=FineTune)
    decoding: Beam = COCO_BEAM
    name: str = "pretrain"
    best: Best | None = None

    def __post_init__(self) -> None:
        if self.web is not None and self.reward is not None:
            raise ConfigError("web: not with reward, which knows the captions of fixed photos only")

    @cached_property
    def _started(self) -> InitializedModel:
        return start_model(self.start, "pretrain")

    @cached_property
    def _reward(self) -> CiderReward:
        source = self.reading.open(self.data, need_text=True)
        return CiderReward([source[i].texts for i in range(len(source))])

    @cached_property
    def _imagined(self) -> Imagined | None:
        return None if self.imagined is None else read_imagined(Path(self.imagined))

    @cached_property
    def _teacher(self) -> Teacher | None:
        return None if self.teacher is None else read_teacher(Path(self.teacher))

    @cached_property
    def _shown(self) -> Source:
        """What evaluations look at; read once, however many there are."""
        assert self.val is not None
        return self.reading.open(self.val, need_text=True)

    def build_model(self) -> nn.Module:
        return MomentumModel(self.tune.prepare(self._started), self.queue_size, self.momentum, self._started.training)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return self.tune.groups(model)

    def dataset(self, split: Split) -> TrainingPhotos | EpochLists:
        pixels = ImageLoader(self.augment.transform(self._started.config), self.views)
        if self.web is not None:
            fixed = [self.data] if isinstance(self.data, str) else self.data
            return EpochLists(fixed, self.web, pixels, self.texts_per_image, self.max_words)
        source = self.reading.open(self.data, need_text=True)
        return TrainingPhotos(source, pixels, self.texts_per_image, self.max_words)

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        return collate_pairs(samples, self._started.tokenizer, self.max_length)

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        momentum_model = cast(MomentumModel, model)
        online = momentum_model.model
        ids, mask = batch["input_ids"], batch["attention_mask"]
        image_ids = batch["image_ids"] if self.same_image_ids else None
        grid, class_tokens = online.vision.read_pixels(batch["pixel_values"])
        image_embeds = online.vision.encode_grid(grid, class_tokens)
        alpha = alpha_ramp(self.alpha, step, epochs=2)
        frozen = None if grid.requires_grad else grid
        itc = contrast(
            momentum_model,
            batch["pixel_values"],
            image_embeds,
            ids,
            mask,
            alpha,
            image_ids,
            frozen,
            self.whole_batch,
        )
        drawn = draw(itc, online.temperature, self.negatives, image_ids)
        fused_ids = with_first(ids, self._started.config.text.enc_id)
        itm, _ = match(online, fused_ids, mask, image_embeds, drawn)
        losses = {"itc": itc.loss, "itm": itm}
        if self.lm:
            lm = online.lm_loss(batch["lm_ids"], batch["lm_mask"], batch["labels"], image_embeds)
            losses["lm"] = of_whole_batch(lm, batch["labels"]) if self.whole_batch else lm
        if self._teacher is not None:
            taught = self._teacher.of(batch["texts"]).to(ids.device)
            features = itc.text_features
            if self.whole_batch:
                features, taught = gather_with_grad(features), gather(taught)
            losses["teacher"] = self.teacher_weight * likeness_loss(features, taught, TEACHER_TEMPERATURE)
        if self.reward is not None:
            losses["critical"] = self._critical(online, batch, image_embeds, step)
        if self._imagined is not None:
            losses["imagined"] = self._imagined_lm(online, self._imagined, grid.detach(), step)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _critical(self, model: BlipModel, batch: Batch, image_embeds: Tensor, step: Step) -> Tensor:
        assert self.reward is not None
        images = batch["image_ids"].tolist()
        loss, _ = self_critical_loss(
            model,
            self._started.tokenizer,
            image_embeds,
            images,
            self._reward,
            self.reward,
            step.index,
            self.whole_batch,
        )
        return self.reward.weight * loss

    def _imagined_lm(self, model: BlipModel, imagined: Imagined, grid: Tensor, step: Step) -> Tensor:
        generator = torch.Generator().manual_seed(step.index)
        first, shares = 0, 1
        if self.whole_batch:
            grid, first, shares = gather(grid), rank(), world_size()
        count = max(1, int(len(grid) * self.imagined_per_image))
        grids, captions = imagined.draw(count, grid, generator)
        own = slice(count * first // shares, count * (first + 1) // shares)
        none = own.start == own.stop  # fewer than processes: a row for nothing, so that all do the same
        own = slice(0, 1) if none else own
        cleaned = [clean_caption(c, self.max_words) for c in captions[own]]
        encoded = self._started.tokenizer.encode(cleaned, first="dec", max_length=self.max_length)
        ids, mask = (x.to(grid.device) for x in encoded)
        stem = cast(ConvStem, model.vision.stem)
        embeds = model.vision.encode_grid(grids[own], stem.class_tokens(grids[own]))
        labels = ids.masked_fill(mask == 0, -100)
        lm = model.lm_loss(ids, mask, labels, embeds)
        return of_whole_batch(lm, labels[:0] if none else labels) if self.whole_batch else lm

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        if self.val is None:
            return Report()
        online, source = cast(MomentumModel, model).model, self._shown
        tokenizer = self._started.tokenizer
        found = run(RetrievalEval(k=0, max_length=self.max_length), online, tokenizer, source, limit=limit)
        if not self.lm:
            return found
        captions = run(CaptionEval(decoding=self.decoding), online, tokenizer, source, limit=limit)
        return replace(captions, measures={**captions.measures, **found.measures})

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(cast(MomentumModel, model).model, self._started, folder)
