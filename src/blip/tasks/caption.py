"""Captioning with the LM loss, optionally self-critical (original: train_caption.py, models/blip.py BLIP_Decoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from blip.data.sources import Reading, Source
from blip.eval.caption import COCO_BEAM, CaptionEval
from blip.model.blip import BlipModel
from blip.tasks.base import Batch, Best, ParamGroup, Report, Split, Step, of_whole_batch
from blip.tasks.images import Augment, ImageLoader, TrainingPhotos, TrainingSample
from blip.tasks.initialize import FineTune, InitializedModel, Start, save_model, start_model
from blip.tasks.reward import CiderReward, Reward, self_critical_loss
from blip.tasks.validation import evaluated
from blip_lite.decoding import Beam


@dataclass(frozen=True, kw_only=True)
class CaptionTask:
    """Captions after a prompt whose own tokens are not learnt; best by CIDEr + BLEU-4 on the validation photos.

    views: what a frozen stem has read of the photos (`blip.tasks.images.ImageLoader`).
    keep_parts: a model from pre-training keeps its other heads (and, where `tune.freeze` says so, what they rest on).
    whole_batch: the loss is the mean over the tokens of all processes (original: the mean of each process's mean).
    """

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    start: Start = field(default_factory=Start)
    prompt: str | None = None  # None: the model's own
    reading: Reading = field(default_factory=Reading)
    max_length: int = 40
    max_words: int = 30
    texts_per_image: int = 1
    augment: Augment = field(default_factory=Augment)
    views: str | None = None
    reward: Reward | None = None
    keep_parts: bool = False
    whole_batch: bool = False
    tune: FineTune = field(default_factory=FineTune)
    decoding: Beam = COCO_BEAM
    name: str = "caption"
    best: Best | None = field(default_factory=lambda: Best(("cider", "bleu4")))  # original: the sum of the two

    @cached_property
    def _started(self) -> InitializedModel:
        return start_model(self.start, "caption", self.keep_parts)

    @cached_property
    def _reward(self) -> CiderReward:
        source = self.reading.open(self.data, need_text=True)
        return CiderReward([source[i].texts for i in range(len(source))])

    @property
    def _prompt(self) -> str:
        return self._started.config.prompt if self.prompt is None else self.prompt

    @cached_property
    def _shown(self) -> Source:
        """What evaluations look at; read once, however many there are."""
        return self.reading.open(self.val or self.data, need_text=True)

    def build_model(self) -> nn.Module:
        return self.tune.prepare(self._started)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return self.tune.groups(model)

    def dataset(self, split: Split) -> TrainingPhotos:
        return TrainingPhotos(
            self.reading.open(self.data, need_text=True),
            ImageLoader(self.augment.transform(self._started.config), self.views),
            texts_per_image=self.texts_per_image,
            max_words=self.max_words,
        )

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
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
        if self.whole_batch:
            lm = of_whole_batch(lm, batch["labels"])
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
            self.whole_batch,
        )
        return {"loss": lm + self.reward.weight * critical, "lm": lm, "reward": torch.tensor(mean)}

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        tokenizer, unseen = self._started.tokenizer, self.val is not None
        evaluation = CaptionEval(decoding=self.decoding, prompt=self.prompt)
        return evaluated(evaluation, cast(BlipModel, model), tokenizer, self._shown, limit, unseen=unseen)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(cast(BlipModel, model), self._started, folder)
