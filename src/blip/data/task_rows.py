"""What a record means to a task: ids for retrieval, weighted answers for VQA, image pairs for NLVR2.

Pure functions of records, equal to the original's data set classes (data/*.py) except where a docstring says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from blip.data.sources import SampleList, Source
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import BadRecord
from blip_lite.tokenizer import clean_caption, clean_question

VG_WEIGHT = 0.2  # of a Visual Genome answer, which only one person gave
_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True, slots=True)
class Question:
    """A cleaned question with its distinct answers; `weights` are the shares of the people who gave each."""

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
        """The images exchanged, and with them the words left and right. Says the same."""
        words = (_SIDES.get(word, word) for word in self.sentence.split(" "))
        return replace(self, images=self.images[::-1], sentence=" ".join(words))


@dataclass(frozen=True, slots=True)
class RetrievalTexts:
    """All cleaned texts of a source in file order, and who belongs to whom."""

    texts: tuple[str, ...]
    text_to_image: tuple[int, ...]
    image_to_texts: tuple[tuple[int, ...], ...]


def image_ids(source: Source, column: str = "image_id") -> list[int]:
    """Per record the number of its image, counted by first appearance of `column` (without it: of the image)."""
    seen: dict[Hashable, int] = {}
    records = (source[i] for i in range(len(source)))
    return [seen.setdefault(record.fields.get(column, record.image), len(seen)) for record in records]


def merged_by_image(source: Source) -> SampleList:
    """One record an image, with the texts of all its rows; the others' keys and fields are dropped."""
    merged: dict[Any, Sample] = {}
    for i in range(len(source)):
        record = source[i]
        first = merged.get(record.image)
        merged[record.image] = record if first is None else replace(first, texts=(*first.texts, *record.texts))
    return SampleList(list(merged.values()))


def retrieval_texts(source: Source, max_words: int = 30) -> RetrievalTexts:
    """Texts and owners for retrieval evaluation: one image a record."""
    texts: list[str] = []
    owners: list[int] = []
    groups: list[tuple[int, ...]] = []
    for i in range(len(source)):
        own = [clean_caption(text, max_words) for text in source[i].texts]
        groups.append(tuple(range(len(texts), len(texts) + len(own))))
        texts += own
        owners += [i] * len(own)
    return RetrievalTexts(tuple(texts), tuple(owners), tuple(groups))


def question(record: Sample, max_words: int = 50) -> Question:
    """A VQA row: `question`, `answer` or `answers`, `question_id`; test rows have no answer. Raises `BadRecord`.

    A list of answers is weighted by share (VQA), a single text by 0.2 (Visual Genome).
    """
    text = record.fields.get("question")
    if not isinstance(text, str) or not text.strip():
        raise BadRecord(record.where, "no text in column 'question'")
    answers, weights = _weighted(record)
    return Question(record.image, clean_question(text, max_words), answers, weights, record.fields.get("question_id"))


def _weighted(record: Sample) -> tuple[tuple[str, ...], tuple[float, ...]]:
    given = record.fields.get("answer", record.fields.get("answers"))
    if isinstance(given, str):
        return (given,), (VG_WEIGHT,)
    if given is None:
        return (), ()
    if not isinstance(given, list) or not given or not all(isinstance(answer, str) for answer in given):
        raise BadRecord(record.where, "'answer' must be a text or a list of texts")
    counts = Counter(given)
    return tuple(counts), tuple(n / len(given) for n in counts.values())


def flat_answers(questions: Sequence[Question]) -> tuple[list[str], Tensor, list[int]]:
    """All answers of a batch, their weights [A] float32, and how many each question has."""
    weights = torch.tensor([w for q in questions for w in q.weights], dtype=torch.float32)
    return [a for q in questions for a in q.answers], weights, [len(q.answers) for q in questions]


def image_pair(record: Sample, draw: float | None = None, max_words: int = 40) -> ImagePair:
    """An NLVR2 row: `images` (two), `sentence`, `label` True or False. Raises `BadRecord`.

    With `draw`, uniform in [0, 1), the pair is swapped from 0.5 on. Give one in training; the original swaps in
    evaluation too, so that its accuracy depends on the seed.
    """
    sentence, label = record.fields.get("sentence"), str(record.fields.get("label"))
    if len(record.images) != 2:
        raise BadRecord(record.where, f"{len(record.images)} images; a pair needs two in column 'images'")
    if not isinstance(sentence, str) or not sentence.strip():
        raise BadRecord(record.where, "no text in column 'sentence'")
    if label.lower() not in ("true", "false"):
        raise BadRecord(record.where, f"label '{label}'; must be True or False")
    images = (record.images[0], record.images[1])
    pair = ImagePair(images, clean_caption(sentence, max_words), int(label.lower() == "true"))
    return pair if draw is None or draw < 0.5 else pair.swapped()


def first_of_each(rows: Iterable[Mapping[str, Any]], column: str) -> list[Mapping[str, Any]]:
    """Rows with a new value in `column` (3 and "3" are one): padded samplers give some samples twice."""
    kept: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        kept.setdefault(str(row[column]), row)
    return list(kept.values())
