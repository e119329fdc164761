"""Captioning with the LM loss, optionally self-critical (original: train_caption.py, models/blip.py BLIP_Decoder)."""

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
from blip.tasks.base import Batch, Best, ParamGroup, Report, Split, Step
from blip.tasks.images import Sample, TrainingPhotos, train_transform
from blip.tasks.measures import caption_report
from blip.tasks.reward import CiderReward, Reward, self_critical_loss
from blip.tasks.start import Start, Started, freeze, rated_groups, save_model, start_model


@dataclass(frozen=True, kw_only=True)
class CaptionTask:
    """Captions after a prompt whose own tokens are not learnt; best by CIDEr + BLEU-4 on the validation photos.

    views: what a frozen stem has read of the photos (`blip.tasks.images.TrainingPhotos`).
    keep_parts: a model from pre-training keeps its other heads (and, where `freeze` says so, what they rest on).
    """

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    start: Start = field(default_factory=Start)
    prompt: str | None = None  # None: the model's own
    max_length: int = 40
    max_words: int = 30
    min_scale: float = 0.5
    texts_per_image: int = 1
    views: str | None = None
    rand_augment: bool = True
    reward: Reward | None = None
    keep_parts: bool = False
    freeze: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    decoding: Beam = field(default_factory=lambda: Beam(num_beams=3, max_length=20, min_length=5))
    name: str = "caption"
    best: Best | None = field(default_factory=lambda: Best(("cider", "bleu4")))  # original: the sum of the two

    @cached_property
    def _started(self) -> Started:
        return start_model(self.start, "caption", self.keep_parts)

    @cached_property
    def _reward(self) -> CiderReward:
        source = open_source(self.data, require_text=True)
        return CiderReward([source[i].texts for i in range(len(source))])

    @property
    def _prompt(self) -> str:
        return self._started.config.prompt if self.prompt is None else self.prompt

    def build_model(self) -> nn.Module:
        freeze(self._started.model, self.freeze)
        return self._started.model

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
        tokenizer = self._started.tokenizer
        texts = [self._prompt + text for s in samples for text in s.texts]
        encoded = tokenizer.encode(texts, first="dec", max_length=self.max_length)
        labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
        labels[:, : len(tokenizer.prompt_ids(self._prompt))] = -100
        return {
            "pixel_values": torch.stack([s.pixel_values for s in samples]),
            "input_ids": encoded.input_ids,
            "attention_mask": encoded.attention_mask,
            "labels": labels,
            "image_ids": torch.tensor([s.index for s in samples]),
        }

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        blip = cast(BlipModel, model)
        image_embeds = blip.encode_image(batch["pixel_values"])
        lm = blip.lm_loss(batch["input_ids"], batch["attention_mask"], batch["labels"], image_embeds)
        if self.reward is None:
            return {"loss": lm, "lm": lm}
        critical, mean = self_critical_loss(
            blip,
            self._started.tokenizer,
            image_embeds,
            batch["image_ids"].tolist(),
            self._reward,
            self.reward,
            step.index,
        )
        return {"loss": lm + self.reward.weight * critical, "lm": lm, "reward": torch.tensor(mean)}

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        if self.val is None:
            return Report(metrics={}, rows=[])
        return caption_report(
            cast(BlipModel, model),
            self._started.tokenizer,
            open_source(self.val, require_text=True),
            self.decoding,
            limit,
        )

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(cast(BlipModel, model), self._started, folder)
