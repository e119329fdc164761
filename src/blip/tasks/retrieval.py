"""Image-text retrieval: ITC with id-aware targets and queue, ITM with hard negatives (original: train_retrieval.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from blip.data.loader import SampleRef
from blip.data.sources import Reading, Source
from blip.data.task_rows import image_ids
from blip.eval.retrieval import RetrievalEval
from blip.model.momentum import MomentumModel
from blip.tasks.base import Batch, Best, ParamGroup, Report, Split, Step, alpha_ramp
from blip.tasks.contrastive import Negatives, contrast, draw, match
from blip.tasks.images import Augment, ImageLoader, TrainingPhotos, TrainingSample, collate_pairs, with_first
from blip.tasks.initialize import FineTune, InitializedModel, Start, save_model, start_model
from blip.tasks.validation import evaluated

RETRIEVAL_NEGATIVES = Negatives(source="online", floor=0.0, all_ranks=True)


@dataclass(frozen=True, kw_only=True)
class RetrievalTask:
    """ITC + ITM with momentum distillation (alpha ramps over the first epoch); best by the mean of all recalls.

    Rows of one image (equal `image_id`, else the same file) are positives of each other and never negatives.
    itc_weight 0: only matching is learnt (`blip train itm`); negatives are still the most alike.
    negatives: where hard negatives come from; the original draws from all ranks for COCO and from one for Flickr30k.
    """

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    reading: Reading = field(default_factory=Reading)
    start: Start = field(default_factory=Start)
    tune: FineTune = field(default_factory=FineTune)
    queue_size: int = 57600
    momentum: float = 0.995
    alpha: float = 0.4
    itc_weight: float = 1.0
    negatives: Negatives = RETRIEVAL_NEGATIVES
    whole_batch: bool = False
    max_length: int = 35
    max_words: int = 30
    augment: Augment = field(default_factory=Augment)
    views: str | None = None
    evaluation: RetrievalEval = field(default_factory=RetrievalEval)
    name: str = "retrieval"
    best: Best | None = field(default_factory=lambda: Best(("r_mean",)))

    @cached_property
    def _started(self) -> InitializedModel:
        return start_model(self.start, "retrieval")

    @cached_property
    def _shown(self) -> Source:
        """What evaluations look at; read once, however many there are."""
        return self.reading.open(self.val or self.data, need_text=True)

    def build_model(self) -> nn.Module:
        return MomentumModel(self.tune.prepare(self._started), self.queue_size, self.momentum, self._started.training)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return self.tune.groups(model)

    def dataset(self, split: Split) -> TrainingPairs:
        pixels = ImageLoader(self.augment.transform(self._started.config), self.views)
        return TrainingPairs(self.reading.open(self.data, need_text=True), pixels, 1, self.max_words)

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        return collate_pairs(samples, self._started.tokenizer, self.max_length)

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        momentum_model = cast(MomentumModel, model)
        online, ids, mask, images = (
            momentum_model.model,
            batch["input_ids"],
            batch["attention_mask"],
            batch["image_ids"],
        )
        grid, class_tokens = online.vision.read_pixels(batch["pixel_values"])
        embeds = online.vision.encode_grid(grid, class_tokens)
        alpha = alpha_ramp(self.alpha, step, epochs=1)
        frozen = None if grid.requires_grad else grid
        itc = contrast(
            momentum_model, batch["pixel_values"], embeds, ids, mask, alpha, images, frozen, self.whole_batch
        )
        drawn = draw(itc, online.temperature, self.negatives, images)
        itm, _ = match(online, with_first(ids, online.config.text.enc_id), mask, embeds, drawn)
        return {"loss": self.itc_weight * itc.loss + itm, "itc": itc.loss, "itm": itm}

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        tokenizer, unseen = self._started.tokenizer, self.val is not None
        return evaluated(
            self.evaluation, cast(MomentumModel, model).model, tokenizer, self._shown, limit, unseen=unseen
        )

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(cast(MomentumModel, model).model, self._started, folder)


class TrainingPairs(TrainingPhotos):
    """Photos with one caption; `index` of a sample is the number of its image, not of its row."""

    @cached_property
    def image_ids(self) -> list[int]:
        return image_ids(self.source)

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        sample = super().__getitem__(ref)
        return TrainingSample(sample.pixel_values, sample.texts, self.image_ids[ref.index])
