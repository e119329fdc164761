"""Visual question answering: weighted answers to questions (original: train_vqa.py, models/blip_vqa.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, cast

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
from blip.tasks.base import Batch, Best, Step, TaskInfo
from blip.tasks.images import Augment, ImageLoader
from blip.tasks.initialize import FineTune, Start
from blip.tasks.setup import Setup
from blip_lite.errors import BadRecord

QuestionSample = tuple[Tensor, list[Question]]


class TrainingQuestions:
    """Augmented images with questions and their weighted answers.

    per_image 1: every question is a sample, as in the original. More: a sample is an image with that number of its
    questions, drawn again each epoch (with repetition if it has fewer), so that they share the image's computation. An
    image with several times as many questions has as many samples, which divide its questions among them.
    """

    def __init__(self, source: Source, loader: ImageLoader, max_words: int, per_image: int = 1) -> None:
        self.source, self.loader, self.max_words, self.per_image = source, loader, max_words, per_image
        groups: dict[ImageRef, list[int]] = {}
        for i in range(len(source)) if per_image > 1 else ():
            groups.setdefault(source[i].image, []).append(i)
        self.groups = [part for rows in groups.values() for part in divided(rows, per_image)]
        self.groups = self.groups or [[i] for i in range(len(source))]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, ref: SampleRef) -> QuestionSample:
        rows = self.groups[ref.index]
        if self.per_image > 1:
            order = np.random.RandomState(ref.seed % 2**32).permutation(len(rows))
            rows = [rows[order[i % len(rows)]] for i in range(self.per_image)]
        sample = self.source[rows[0]]
        return self.loader(sample, sample.image, ref.seed), [question(self.source[i], self.max_words) for i in rows]


def divided(rows: list[int], per_image: int) -> list[list[int]]:
    """Divide the rows of an image into parts of about `per_image`, at least one."""
    parts = max(1, round(len(rows) / per_image))
    return [rows[i::parts] for i in range(parts)]


def answered_question(sample: Sample) -> Question:
    """Return the question of a row with at least one answer. Raises `BadRecord`."""
    row = question(sample)
    if not row.answers:
        raise BadRecord(sample.where, "no answer in column 'answer' or 'answers'")
    return row


@dataclass(frozen=True, kw_only=True)
class VqaTask:
    """LM loss of the answers, weighted by the share of people who gave each: sum per question, mean over questions.

    questions_per_image: see `TrainingQuestions`. smoothing_scope: "all" as with the torch of the original's time
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
    smoothing_scope: Scope = "valid"
    evaluation: VqaEval = field(default_factory=VqaEval)
    best: Best | None = field(default_factory=lambda: Best(("accuracy",)))  # original: no validation, every epoch kept

    name: ClassVar[str] = "vqa"
    info: ClassVar[TaskInfo] = TaskInfo(
        description="answer questions about images",
        columns="image, question, answer or answers",
        usage="ask PHOTO -q QUESTION",
        learning_rate=2e-5,
    )

    @cached_property
    def setup(self) -> Setup:
        return Setup(
            task=self,
            family="vqa",
            evaluations=(self.evaluation,),
            check=answered_question,
        )

    def dataset(self, source: Source | None = None) -> TrainingQuestions:
        loader = self.augment.loader(self.setup.config, varied=source is None)
        return TrainingQuestions(self.setup.rows(source), loader, self.max_words, self.questions_per_image)

    def collate(self, samples: Sequence[QuestionSample]) -> Batch:
        """Encode Q questions (those of an image together) and their A answers.

        `answer_ids` [A, T], `weights` [A], `counts` [Q]: number of answers per question.
        """
        tokenizer, questions = self.setup.initialized.tokenizer, [q for _, group in samples for q in group]
        answers, weights, counts = flat_answers(questions)
        encoded = tokenizer.encode([q.question for q in questions], first="enc", max_length=self.max_length)
        targets = tokenizer.encode(answers, first="dec", max_length=self.max_length)
        return {
            "pixel_values": torch.stack([pixels for pixels, _ in samples]),
            "input_ids": encoded.input_ids,
            "attention_mask": encoded.attention_mask,
            "answer_ids": targets.input_ids,
            "answer_mask": targets.attention_mask,
            "weights": weights,
            "counts": torch.tensor(counts),
        }

    def loss(self, model: nn.Module, batch: Batch, step: Step) -> dict[str, Tensor]:
        loss = self.validation_loss(cast(BlipModel, model), batch)
        return {"loss": loss, "lm": loss}

    def validation_loss(self, model: BlipModel, batch: Batch) -> Tensor:
        mask = batch["attention_mask"]
        states = model.fuse(batch["input_ids"], mask, model.encode_image(batch["pixel_values"]))
        losses = answer_losses(model, states, mask, batch, self.smoothing_scope)
        loss: Tensor = (batch["weights"] * losses).sum() / len(mask)
        return loss


def answer_losses(model: BlipModel, states: Tensor, mask: Tensor, batch: Batch, scope: Scope) -> Tensor:
    """Summed token losses [A] of the answers, from the states [Q, T, D] of their questions."""
    ids, answer_mask, counts = batch["answer_ids"], batch["answer_mask"], batch["counts"]
    labels = ids.masked_fill(answer_mask == 0, -100)
    smoothing = model.config.text.label_smoothing
    hidden = model.decoder_states(
        ids, answer_mask, states.repeat_interleave(counts, dim=0), mask.repeat_interleave(counts, dim=0)
    )
    if scope == "all":
        return lm_loss(model.decoder.logits(hidden), labels, smoothing, "none", scope)
    kept = labels[:, 1:] != -100  # only these need logits
    logits = model.decoder.logits(hidden[:, :-1][kept]).float()
    tokens = F.cross_entropy(logits, labels[:, 1:][kept], label_smoothing=smoothing, reduction="none")
    return tokens.new_zeros(len(ids)).index_add(0, kept.nonzero()[:, 0], tokens)
