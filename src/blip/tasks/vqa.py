"""Visual question answering: weighted answers to questions (original: train_vqa.py, models/blip_vqa.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.data.loader import SampleRef
from blip.data.sources import Reading, Source
from blip.data.task_rows import Question, flat_answers, question
from blip.eval.vqa import VqaEval
from blip.io.samples import ImageRef, Sample
from blip.model.blip import BlipModel
from blip.model.losses import Scope, lm_loss
from blip.tasks.base import Batch, Best, ParamGroup, Report, Split, Step
from blip.tasks.images import Augment, ImageLoader
from blip.tasks.initialize import FineTune, InitializedModel, Start, save_model, start_model
from blip.tasks.validation import evaluated
from blip_lite.errors import BadRecord

TrainingSample = tuple[Tensor, list[Question]]


class TrainingQuestions:
    """Augmented photos with questions and their weighted answers.

    per_image 1: every question is an item, as in the original; more: every photo is one, with so many of its questions
    drawn anew (again from the first where there are fewer), so that they share what is computed of it.
    """

    def __init__(self, source: Source, pixels: ImageLoader, max_words: int, per_image: int = 1) -> None:
        self.source, self.pixels, self.max_words, self.per_image = source, pixels, max_words, per_image
        groups: dict[ImageRef, list[int]] = {}
        for i in range(len(source)) if per_image > 1 else ():
            groups.setdefault(source[i].image, []).append(i)
        self.items = list(groups.values()) or [[i] for i in range(len(source))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, ref: SampleRef) -> TrainingSample:
        rows = self.items[ref.index]
        if self.per_image > 1:
            drawn = np.random.RandomState(ref.seed % 2**32).permutation(len(rows))
            rows = [rows[drawn[i % len(rows)]] for i in range(self.per_image)]
        record = self.source[rows[0]]
        return self.pixels(record, record.image, ref.seed), [question(self.source[i], self.max_words) for i in rows]


def trainable(record: Sample) -> Question:
    """The question of a row that can be learnt from. Raises `BadRecord`."""
    asked = question(record)
    if not asked.answers:
        raise BadRecord(record.where, "no answer in column 'answer' or 'answers'")
    return asked


@dataclass(frozen=True, kw_only=True)
class VqaTask:
    """Answers are learnt by the weight that people gave them: the sum over a question's answers, mean over questions.

    questions_per_image: see `TrainingQuestions`. smoothing_scope: "all" as under the torch of the original's time
    (blip-spec 7.1). evaluation: how validation questions are answered.
    """

    data: str | Sequence[str]
    val: str | Sequence[str] | None = None
    reading: Reading = field(default_factory=Reading)
    start: Start = field(default_factory=Start)
    tune: FineTune = field(default_factory=FineTune)
    max_length: int = 35
    max_words: int = 50
    questions_per_image: int = 1
    augment: Augment = field(default_factory=Augment)
    views: str | None = None
    smoothing_scope: Scope = "valid"
    evaluation: VqaEval = field(default_factory=VqaEval)
    name: str = "vqa"
    best: Best | None = field(default_factory=lambda: Best(("accuracy",)))  # original: no validation, every epoch kept

    @cached_property
    def _started(self) -> InitializedModel:
        return start_model(self.start, "vqa")

    @cached_property
    def _shown(self) -> Source:
        """What evaluations look at; read once, however many there are."""
        return self.reading.open(self.val or self.data, check=question)

    def build_model(self) -> nn.Module:
        return self.tune.prepare(self._started)

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        return self.tune.groups(model)

    def dataset(self, split: Split) -> TrainingQuestions:
        pixels = ImageLoader(self.augment.transform(self._started.config), self.views)
        return TrainingQuestions(
            self.reading.open(self.data, check=trainable), pixels, self.max_words, self.questions_per_image
        )

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        """Q questions, those of a photo together; their A answers: `answer_ids` [A, T], `weights` [A], `counts` [Q]."""
        tokenizer, questions = self._started.tokenizer, [one for _, asked in samples for one in asked]
        answers, weights, counts = flat_answers(questions)
        asked = tokenizer.encode([q.question for q in questions], first="enc", max_length=self.max_length)
        given = tokenizer.encode(answers, first="dec", max_length=self.max_length)
        return {
            "pixel_values": torch.stack([pixels for pixels, _ in samples]),
            "input_ids": asked.input_ids,
            "attention_mask": asked.attention_mask,
            "answer_ids": given.input_ids,
            "answer_mask": given.attention_mask,
            "weights": weights,
            "counts": torch.tensor(counts),
        }

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        blip = cast(BlipModel, model)
        mask = batch["attention_mask"]
        states = blip.fuse(batch["input_ids"], mask, blip.encode_image(batch["pixel_values"]))
        losses = answer_losses(blip, states, mask, batch, self.smoothing_scope)
        loss = (batch["weights"] * losses).sum() / len(mask)
        return {"loss": loss, "lm": loss}

    def evaluate(self, model: nn.Module, limit: int | None = None) -> Report:
        tokenizer, unseen = self._started.tokenizer, self.val is not None
        return evaluated(self.evaluation, cast(BlipModel, model), tokenizer, self._shown, limit, unseen=unseen)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_model(cast(BlipModel, model), self._started, folder)


def answer_losses(model: BlipModel, states: Tensor, mask: Tensor, batch: Batch, scope: Scope) -> Tensor:
    """Summed token losses [A] of the answers to their questions' states [B, T, D]."""
    ids, seen, counts = batch["answer_ids"], batch["answer_mask"], batch["counts"]
    labels = ids.masked_fill(seen == 0, -100)
    smoothing = model.config.text.label_smoothing
    hidden = model.decoder_states(
        ids, seen, states.repeat_interleave(counts, dim=0), mask.repeat_interleave(counts, dim=0)
    )
    if scope == "all":
        return lm_loss(model.decoder.logits(hidden), labels, smoothing, "none", scope)
    wanted = labels[:, 1:] != -100  # only these go through the head
    logits = model.decoder.logits(hidden[:, :-1][wanted]).float()
    tokens = F.cross_entropy(logits, labels[:, 1:][wanted], label_smoothing=smoothing, reduction="none")
    return tokens.new_zeros(len(ids)).index_add(0, wanted.nonzero()[:, 0], tokens)
