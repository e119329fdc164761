"""Samples as rows of a task: ids for retrieval, weighted answers for VQA, image pairs for NLVR2.

Pure functions of samples, equal to the original's data set classes (data/*.py) unless a docstring notes a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from blip.data.sources import SampleList, Source
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord
from blip_lite.tokenizer import clean_caption, clean_question

VG_WEIGHT = 0.2  # of a Visual Genome answer, which has one annotator
_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True, slots=True)
class Question:
    """A cleaned question with its distinct answers; `weights` are the shares of annotators who gave each."""

    image: ImageRef
    question: str
    answers: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    question_id: Any = None


@dataclass(frozen=True, slots=True)
class ImagePair:
    """An NLVR2 sentence about two images; label 1 = true."""

    images: tuple[ImageRef, ImageRef]
    sentence: str
    label: int

    def swapped(self) -> ImagePair:
        """Exchange the images and the words left and right, which keeps the meaning."""
        words = (_SIDES.get(word, word) for word in self.sentence.split(" "))
        return replace(self, images=self.images[::-1], sentence=" ".join(words))


@dataclass(frozen=True, slots=True)
class RetrievalTexts:
    """All cleaned texts of a source in file order, and the assignment of texts to images."""

    texts: tuple[str, ...]
    text_to_image: tuple[int, ...]
    image_to_texts: tuple[tuple[int, ...], ...]


def image_ids(source: Source, column: str = "image_id") -> list[int]:
    """Return for each sample the number of its image, by first appearance of `column` (without it: of the image)."""
    seen: dict[Hashable, int] = {}
    samples = (source[i] for i in range(len(source)))
    return [seen.setdefault(sample.fields.get(column, sample.image), len(seen)) for sample in samples]


def merged_by_image(source: Source) -> SampleList:
    """Return one sample per image with the texts of all its rows; keys and fields are those of its first row."""
    merged: dict[Any, Sample] = {}
    for i in range(len(source)):
        sample = source[i]
        first = merged.get(sample.image)
        merged[sample.image] = sample if first is None else replace(first, texts=(*first.texts, *sample.texts))
    return SampleList(list(merged.values()))


def retrieval_texts(source: Source, max_words: int = 30) -> RetrievalTexts:
    """Return texts and their images for retrieval evaluation: one image per sample."""
    texts: list[str] = []
    image_of: list[int] = []
    groups: list[tuple[int, ...]] = []
    for i in range(len(source)):
        cleaned = [clean_caption(text, max_words) for text in source[i].texts]
        groups.append(tuple(range(len(texts), len(texts) + len(cleaned))))
        texts += cleaned
        image_of += [i] * len(cleaned)
    return RetrievalTexts(tuple(texts), tuple(image_of), tuple(groups))


def question(sample: Sample, max_words: int = 50) -> Question:
    """Parse a VQA row: `question`, `answer` or `answers`, `question_id`; test rows have no answer. Raises `BadRecord`.

    A list of answers is weighted by share (VQA), a single text by 0.2 (Visual Genome).
    """
    text = sample.fields.get("question")
    if not isinstance(text, str) or not text.strip():
        raise BadRecord(sample.where, "no text in column 'question'")
    answers, weights = _weighted(sample)
    return Question(sample.image, clean_question(text, max_words), answers, weights, sample.fields.get("question_id"))


def _weighted(sample: Sample) -> tuple[tuple[str, ...], tuple[float, ...]]:
    value = sample.fields.get("answer", sample.fields.get("answers"))
    if isinstance(value, str):
        return (value,), (VG_WEIGHT,)
    if value is None:
        return (), ()
    if not isinstance(value, list) or not value or not all(isinstance(answer, str) for answer in value):
        raise BadRecord(sample.where, "'answer' must be a text or a list of texts")
    counts = Counter(value)
    return tuple(counts), tuple(n / len(value) for n in counts.values())


def flat_answers(questions: Sequence[Question]) -> tuple[list[str], Tensor, list[int]]:
    """Return all answers of a batch, their weights [A] float32, and the number of answers per question."""
    weights = torch.tensor([w for q in questions for w in q.weights], dtype=torch.float32)
    return [a for q in questions for a in q.answers], weights, [len(q.answers) for q in questions]


def image_pair(sample: Sample, draw: float | None = None, max_words: int = 40) -> ImagePair:
    """Parse an NLVR2 row: `images` (two), `sentence`, `label` True or False. Raises `BadRecord`.

    With `draw`, uniform in [0, 1), the pair is swapped if it is at least 0.5. For training; the original also swaps in
    evaluation, so that its accuracy depends on the seed.
    """
    sentence, label = sample.fields.get("sentence"), str(sample.fields.get("label"))
    if len(sample.images) != 2:
        raise BadRecord(sample.where, f"{len(sample.images)} images; a pair needs two in column 'images'")
    if not isinstance(sentence, str) or not sentence.strip():
        raise BadRecord(sample.where, "no text in column 'sentence'")
    if label.lower() not in ("true", "false"):
        raise BadRecord(sample.where, f"label '{label}'; must be True or False")
    images = (sample.images[0], sample.images[1])
    pair = ImagePair(images, clean_caption(sentence, max_words), int(label.lower() == "true"))
    return pair if draw is None or draw < 0.5 else pair.swapped()


def unique_keys(samples: Sequence[Sample]) -> list[str]:
    """Return the keys of samples; those that occur twice (shards may repeat keys) are replaced by file and row."""
    return _unique([sample.key for sample in samples], samples)


def row_ids(source: Source, column: str) -> list[Any]:
    """Return the ids of rows: `column`, else file name and row, so that predictions fit data that were moved."""
    samples = [source[i] for i in range(len(source))]
    places = _unique([sample.place for sample in samples], samples)
    values = [sample.fields.get(column) for sample in samples]
    return [v if isinstance(v, int | str) else place for v, place in zip(values, places, strict=True)]


def _unique(names: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    """Replace names that occur twice by file name and row, those that still do by path and row."""
    for finer in (attrgetter("place"), attrgetter("where")):
        counts = Counter(names)
        pairs = zip(names, samples, strict=True)
        names = [str(name if counts[name] == 1 else finer(sample) or name) for name, sample in pairs]
    return list(names)
