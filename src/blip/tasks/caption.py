"""Captioning with the LM loss, optionally self-critical (original: train_caption.py, models/blip.py BLIP_Decoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from blip.data.sources import Reading, Source
from blip.eval.caption import COCO_BEAM, CaptionEval
from blip.model.blip import BlipModel
from blip.tasks.base import Batch, Best, Step, TaskInfo, global_token_mean
from blip.tasks.images import Augment, TrainingImages, TrainingSample
from blip.tasks.initialize import FineTune, Start
from blip.tasks.reward import CiderReward, Reward, self_critical_loss
from blip.tasks.setup import Setup
from blip_lite.decoding import Beam


@dataclass(frozen=True, kw_only=True)
class CaptionTask:
    """Captions after a prompt, whose own tokens have no loss; best by CIDEr + BLEU-4 on the validation images.

    keep_parts: a pre-trained model keeps its other heads (and the parts they use, if frozen by `tune.freeze`).
    whole_batch: the loss is the mean over the tokens of all processes (original: the mean of each process's mean).
    """

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    start: Start = field(default_factory=Start)
    prompt: str | None = None  # None: the prompt of the model
    reading: Reading = field(default_factory=Reading)
    max_length: int = 40
    max_words: int = 30
    texts_per_image: int = 1
    augment: Augment = field(default_factory=Augment)
    reward: Reward | None = None
    keep_parts: bool = False
    whole_batch: bool = False
    tune: FineTune = field(default_factory=FineTune)
    decoding: Beam = COCO_BEAM
    best: Best | None = field(default_factory=lambda: Best(("cider", "bleu4")))  # original: the sum of the two

    name: ClassVar[str] = "caption"
    info: ClassVar[TaskInfo] = TaskInfo(
        description="describe images",
        columns="image, caption or captions",
        usage="caption PHOTO",
        learning_rate=1e-5,
    )

    @cached_property
    def setup(self) -> Setup:
        return Setup(
            task=self,
            family="caption",
            evaluations=(CaptionEval(decoding=self.decoding, prompt=self.prompt),),
            need_text=True,
            needs_all_rows=self.reward is not None,  # document frequencies over all references
            keep_family=self.keep_parts,
        )

    @property
    def _prompt(self) -> str:
        return self.setup.config.prompt if self.prompt is None else self.prompt

    @cached_property
    def _cider_reward(self) -> CiderReward:
        return CiderReward.from_source(self.setup.training_source)

    def dataset(self, source: Source | None = None) -> TrainingImages:
        loader = self.augment.loader(self.setup.config, varied=source is None)
        return TrainingImages(self.setup.rows(source), loader, self.texts_per_image, self.max_words)

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        tokenizer = self.setup.initialized.tokenizer
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
            lm = global_token_mean(lm, batch["labels"])
        if self.reward is None:
            return {"loss": lm, "lm": lm}
        critical, mean = self_critical_loss(
            blip,
            self.setup.initialized.tokenizer,
            image_embeds,
            batch["image_ids"].tolist(),
            self._cider_reward,
            self.reward,
            step.index,
            self.whole_batch,
        )
        return {"loss": lm + self.reward.weight * critical, "lm": lm, "reward": torch.tensor(mean)}

    def validation_loss(self, model: BlipModel, batch: Batch) -> Tensor:
        embeds = model.encode_image(batch["pixel_values"])
        return model.lm_loss(batch["input_ids"], batch["attention_mask"], batch["labels"], embeds)
