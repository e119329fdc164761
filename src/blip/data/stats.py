"""Counts of a data source: images, texts, words, image sizes, answers and labels; and the answer list of VQA.

Read row by row; what grows with the source are 8 bytes an image and a word, and a counter of distinct answers.
"""

from __future__ import annotations

import random
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from statistics import median
from typing import Any

from PIL import Image

from blip.data.check import Seen, batches, hash64, image_mark, texts_of
from blip.io.readers import ReadResult
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import UnreadableImage

SAMPLE = 500  # images whose headers are read
TOP_ANSWERS = 10
MIN_COUNT = 9  # questions with an answer, as in the published list of 3,128
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def statistics(found: Iterable[ReadResult], *, sample: int = SAMPLE) -> dict[str, Any]:
    """Counts and distributions of a source; bad rows are counted and left out.

    Words are lower-case runs of letters and digits. Image sizes (pixels, as stored) are of a sample drawn evenly.
    """
    images, texts, answers, labels = _Images(sample), _Texts(), _Answers(), Counter[str]()
    rows = bad = 0
    for batch in batches(found):
        records = [one for one in batch if isinstance(one, Sample)]
        rows, bad = rows + len(batch), bad + len(batch) - len(records)
        images.add([ref for record in records for ref in record.images])
        texts.add([text for record in records for text in texts_of(record)])
        for record in records:
            answers.add(record)
            if "label" in record.fields and "sentence" in record.fields:
                labels[str(record.fields["label"]).lower()] += 1
    counts: dict[str, Any] = {"rows": rows, "bad_rows": bad, "images": len(images.seen), "texts": texts.count}
    if images.seen and texts.count:
        counts["texts_per_image"] = texts.count / len(images.seen)
    result = counts | texts.summary() | images.summary() | answers.summary()
    return result | ({"labels": _shares(labels, len(labels))} if labels else {})


def answer_list(found: Iterable[ReadResult], min_count: int = MIN_COUNT) -> list[str]:
    """The answers that are the commonest one of at least `min_count` questions, the most frequent first.

    They are as in the file, since that is what a model learns to write. Of equally common answers to a question the
    one that was given first counts.
    """
    counts = Counter(given[0] for one in found if isinstance(one, Sample) and (given := _by_frequency(one)))
    kept = [answer for answer, count in counts.items() if count >= min_count]
    return sorted(kept, key=lambda answer: (-counts[answer], answer))


class _Images:
    """Different images, and an even sample of them (reservoir, seed 0)."""

    def __init__(self, size: int) -> None:
        self.seen, self._size = Seen(), size
        self._sample: list[ImageRef] = []
        self._random = random.Random(0)

    def add(self, refs: Sequence[ImageRef]) -> None:
        count = len(self.seen)
        before = self.seen.add([hash64(image_mark(ref)) for ref in refs])
        for ref in (ref for ref, known in zip(refs, before, strict=True) if not known):
            count += 1
            if len(self._sample) < self._size:
                self._sample.append(ref)
            elif (place := self._random.randrange(count)) < self._size:
                self._sample[place] = ref

    def summary(self) -> dict[str, Any]:
        """Widths and heights of the sample, and how many of it have none."""
        sizes = [size for ref in self._sample if (size := _size(ref))]
        if not sizes:
            return {"sampled_images": len(self._sample), "without_size": len(self._sample)} if self._sample else {}
        sides = {
            name: {"min": min(side), "median": median(side), "max": max(side)}
            for name, side in zip(("width", "height"), zip(*sizes, strict=True), strict=True)
        }
        return {**sides, "sampled_images": len(self._sample), "without_size": len(self._sample) - len(sizes)}


class _Texts:
    """Lengths and vocabulary of texts."""

    def __init__(self) -> None:
        self._lengths = Counter[int]()
        self._words, self._longest, self._most = Seen(), "", 0

    @property
    def count(self) -> int:
        return sum(self._lengths.values())

    def add(self, texts: Sequence[str]) -> None:
        words: set[str] = set()
        for text in texts:
            found = _WORD.findall(text.lower())
            words.update(found)
            self._lengths[len(found)] += 1
            if len(found) > self._most:
                self._most, self._longest = len(found), text
        self._words.add([hash64(word) for word in words])

    def summary(self) -> dict[str, Any]:
        if not self.count:
            return {}
        lengths = sorted(self._lengths.items())
        words = {
            "mean": sum(length * n for length, n in lengths) / self.count,
            "median": self._quantile(0.5),
            "p95": self._quantile(0.95),
            "max": self._most,
        }
        return {"words_per_text": words, "vocabulary": len(self._words), "longest": self._longest}

    def _quantile(self, share: float) -> int:
        """The least length that at least this share of the texts do not exceed."""
        below = 0
        for length, n in sorted(self._lengths.items()):
            below += n
            if below >= share * self.count:
                return length
        return self._most


class _Answers:
    """Questions and how often each answer was given."""

    def __init__(self) -> None:
        self.questions = self.answered = 0
        self._given, self._kinds = Counter[str](), Counter[str]()

    def add(self, record: Sample) -> None:
        if "question" not in record.fields:
            return
        self.questions += 1
        given = _by_frequency(record)
        if given:
            self.answered += 1
            self._given.update(given)
            self._kinds[_kind(given[0])] += 1

    def summary(self) -> dict[str, Any]:
        if not self.questions:
            return {}
        counts = {"questions": self.questions, "answered": self.answered}
        if not self.answered:
            return counts
        return counts | {
            "distinct_answers": len(self._given),
            "answers": _shares(self._given, TOP_ANSWERS),
            "answer_kinds": _shares(self._kinds, 3),
        }


def _by_frequency(record: Sample) -> list[str]:
    """All answers of a question, the commonest first, each as often as it was given."""
    given = record.fields.get("answer", record.fields.get("answers"))
    values = given if isinstance(given, list) else [given]
    counts = Counter(value for value in values if isinstance(value, str))
    return [answer for answer, n in counts.most_common() for _ in range(n)]


def _kind(answer: str) -> str:
    if answer.lower() in ("yes", "no"):
        return "yes/no"
    return "number" if re.fullmatch(r"-?\d+([.,]\d+)?", answer) else "other"


def _shares(counts: Mapping[str, int], top: int) -> dict[str, float]:
    total = sum(counts.values())
    return {name: n / total for name, n in Counter(counts).most_common(top)}


def _size(ref: ImageRef) -> tuple[int, int] | None:
    """(width, height) by the file's header; None where it has none that can be read."""
    try:
        source = ref.open()
        with warnings.catch_warnings():  # a size is no danger, however large
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
                return opened.size
    except (UnreadableImage, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None
