"""Drift of a model in training: how far its outputs have moved on photos that are unlike the training data.

Without other data at hand, this is the sign that a model forgets what it could do: on a few bundled photos, the loss
of the outputs that the starting model gave there. 0 means that it would still give them with the same probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from blip import inference
from blip.data.loader import SampleRef
from blip.data.sources import SampleList
from blip.eval.caption import COCO_BEAM
from blip.eval.photos import Photos
from blip.io.samples import ImageRef, Sample
from blip.model.blip import BlipModel
from blip.tasks.base import Task, to_device
from blip_lite.decoding import Beam

PHOTOS = {
    "astronaut": ("a woman in an orange space suit smiles", "a portrait of an astronaut"),
    "camera": ("a man looks through a camera on a tripod", "a photographer in a black coat outside"),
    "chelsea": ("a close up of a cat looking into the camera", "the face of a tabby cat"),
    "coffee": ("a cup of coffee with a spoon on a wooden table", "coffee in a cup on a saucer"),
    "rocket": ("a rocket starts at night", "a rocket launch with fire and smoke"),
}
QUESTIONS = ("what is in the picture?", "what color is it?", "is there a person?", "where is this?")
EXAMPLES = Path(__file__).parents[1] / "assets" / "examples"
ANSWER_BEAM = Beam(num_beams=3, max_length=10, min_length=1)


class Drift:
    """Measures drift from the starting model. rows: texts, or questions with answers, of the bundled photos.

    rows and start: of an earlier part of the run; None = the model now is the starting model.
    """

    def __init__(
        self, task: Task, model: BlipModel, rows: Sequence[Sequence[str]] | None = None, start: float | None = None
    ) -> None:
        self.task = task
        self.rows = _outputs(task, model) if rows is None else [list(row) for row in rows]
        self.start = self._loss(model) if start is None else start

    def measure(self, model: BlipModel) -> float:
        """Return the rise of the loss since the start, in nats per token (of the contrastive loss for retrieval)."""
        return self._loss(model) - self.start

    @torch.no_grad()
    def _loss(self, model: BlipModel) -> float:
        data = self.task.dataset(SampleList([_sample(row) for row in self.rows]))
        samples = [data[SampleRef(i, 0, 0)] for i in range(len(data))]
        batch = to_device(self.task.collate(samples), model.vision.cls_token.device)
        return float(self.task.validation_loss(model, batch))


def can_measure(task: Task) -> bool:
    """Whether drift is defined for a task: it trains a known kind of model on images, not on cached features."""
    cached = getattr(getattr(task, "augment", None), "cached_features", None)
    return task.setup.family in ("caption", "pretrain", "vqa", "retrieval") and cached is None


def _outputs(task: Task, model: BlipModel) -> list[list[str]]:
    """Return rows of photo, text and, for questions, answer: outputs of the model, for retrieval fixed texts."""
    family, tokenizer = task.setup.family, task.setup.initialized.tokenizer
    if family == "retrieval":
        return [[name, text] for name, texts in PHOTOS.items() for text in texts]
    names = list(PHOTOS)
    photos = [_sample([name, ""]) for name in names]
    rows: list[list[str]] = []
    for numbers, pixels in Photos().batches(photos, model):
        embeds = model.encode_image(pixels)
        if family == "vqa":
            for text in QUESTIONS:
                answers = inference.answer(model, tokenizer, embeds, [text] * len(embeds), ANSWER_BEAM)
                rows += [[names[i], text, best[0].text] for i, best in zip(numbers, answers, strict=True)]
        else:
            captions = inference.caption(model, tokenizer, embeds, COCO_BEAM, prompt=getattr(task, "prompt", None))
            rows += [[names[i], best[0].text] for i, best in zip(numbers, captions, strict=True)]
    return rows


def _sample(row: Sequence[str]) -> Sample:
    name, text, *answer = row
    sample = Sample(key=name, images=(ImageRef(EXAMPLES / f"{name}.jpg"),), texts=(text,), where=name)
    return replace(sample, fields={"question": text, "answers": answer}) if answer else sample
