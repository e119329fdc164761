"""Image-text retrieval: ITC with id-aware targets and queue, ITM with hard negatives (original: train_retrieval.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, cast

from torch import Tensor, nn

from blip.data.loader import SampleRef
from blip.data.sources import Reading, Source
from blip.data.task_rows import image_ids
from blip.eval.retrieval import RetrievalEval
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.tasks.base import Batch, Best, Step, TaskInfo, alpha_ramp
from blip.tasks.contrastive import Negatives, image_text_losses, validation_losses
from blip.tasks.images import Augment, TrainingImages, TrainingSample, collate_pairs
from blip.tasks.initialize import FineTune, Start
from blip.tasks.setup import QUEUE_OF_THE_DATA, Setup

RETRIEVAL_NEGATIVES = Negatives(source="online", floor=0.0, all_ranks=True)


@dataclass(frozen=True, kw_only=True)
class RetrievalTask:
    """ITC + ITM with momentum distillation (alpha ramps over the first epoch); best by the mean of all recalls.

    Rows of one image (equal `image_id`, or the same file) are positives of each other and never negatives.
    itc_weight 0: only matching is trained (`blip train itm`); hard negatives are still drawn by similarity.
    queue_size: None = the number of training rows, at most the original's 57600, since a longer queue would mostly hold
    its random initial features. negatives: source of hard negatives; the original draws from all ranks for COCO and
    from one for Flickr30k.
    """

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    reading: Reading = field(default_factory=Reading)
    start: Start = field(default_factory=Start)
    tune: FineTune = field(default_factory=FineTune)
    queue_size: int | None = None
    momentum: float = 0.995
    alpha: float = 0.4
    itc_weight: float = 1.0
    negatives: Negatives = RETRIEVAL_NEGATIVES
    whole_batch: bool = False
    max_length: int = 35
    max_words: int = 30
    augment: Augment = field(default_factory=Augment)
    evaluation: RetrievalEval = field(default_factory=RetrievalEval)
    best: Best | None = field(default_factory=lambda: Best(("r_mean",)))

    info: ClassVar[TaskInfo] = TaskInfo(
        description="find images by text and texts by image",
        columns="image, caption or captions; image_id if several rows share an image",
        usage="match PHOTO -t TEXT",
        learning_rate=1e-5,
    )

    @property
    def name(self) -> str:
        return "retrieval" if self.itc_weight else "itm"

    @cached_property
    def setup(self) -> Setup:
        return Setup(
            task=self,
            family="retrieval",
            evaluations=(self.evaluation,),
            need_text=True,
            queue_size=QUEUE_OF_THE_DATA if self.queue_size is None else self.queue_size,
            momentum=self.momentum,
        )

    def dataset(self, source: Source | None = None) -> NumberedImages:
        loader = self.augment.loader(self.setup.config, varied=source is None)
        return NumberedImages(TrainingImages(self.setup.rows(source), loader, 1, self.max_words))

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        return collate_pairs(samples, self.setup.initialized.tokenizer, self.max_length)

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        alpha = alpha_ramp(self.alpha, step, epochs=1)
        model = cast(MomentumModel, model)
        losses = image_text_losses(model, batch, alpha, self.negatives, batch["image_ids"], self.whole_batch)
        return {"loss": self.itc_weight * losses.itc + losses.itm, "itc": losses.itc, "itm": losses.itm}

    def validation_loss(self, model: BlipModel, batch: Batch) -> Tensor:
        losses = validation_losses(model, batch, batch["image_ids"])
        return self.itc_weight * losses.itc + losses.itm


class NumberedImages:
    """Images with one caption; `index` of a sample is the number of its image instead of its row."""

    def __init__(self, images: TrainingImages) -> None:
        self.images, self.source = images, images.source
        self.image_ids = image_ids(self.source)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        return replace(self.images[ref], index=self.image_ids[ref.index])
