"""Statistics of a data source: images, texts, words, image sizes, answers and labels; and the answer list of VQA.

Memory use is 8 bytes per image and distinct word, and a counter of distinct answers.
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

from blip.data.check import BATCH, HashSet64, hash64, location_id, texts_of
from blip.io.columns import ReadResult
from blip.io.ordered_map import batched
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import UnreadableImage

SIZE_SAMPLE = 500  # images whose headers are read
TOP_ANSWERS = 10
MIN_COUNT = 9  # questions per answer, as in the published list of 3,128
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def statistics(results: Iterable[ReadResult], *, size_sample: int = SIZE_SAMPLE) -> dict[str, Any]:
    """Return counts and distributions of a source; bad rows are counted and left out.

    Words are lower-case runs of letters and digits. Image sizes (pixels, as stored) are those of an even sample of
    `size_sample` images.
    """
    images, texts, answers, labels = _Images(size_sample), _Texts(), _Answers(), Counter[str]()
    rows = bad = 0
    for batch in batched(results, BATCH):
        samples = [result for result in batch if isinstance(result, Sample)]
        rows, bad = rows + len(batch), bad + len(batch) - len(samples)
        images.add([ref for sample in samples for ref in sample.images])
        texts.add([text for sample in samples for text in texts_of(sample)])
        for sample in samples:
            answers.add(sample)
            if "label" in sample.fields and "sentence" in sample.fields:
                labels[str(sample.fields["label"]).lower()] += 1
    counts: dict[str, Any] = {"rows": rows, "bad_rows": bad, "images": len(images.seen), "texts": texts.count}
    if images.seen and texts.count:
        counts["texts_per_image"] = texts.count / len(images.seen)
    summary = counts | texts.summary() | images.summary() | answers.summary()
    return summary | ({"labels": _shares(labels, len(labels))} if labels else {})


def answer_list(results: Iterable[ReadResult], min_count: int = MIN_COUNT) -> list[str]:
    """Return the answers that are the most common one of at least `min_count` questions, the most frequent first.

    They are as in the file, since that is what a model learns to write. Of equally common answers to a question the
    first one counts.
    """
    counts = Counter(
        answers[0] for result in results if isinstance(result, Sample) and (answers := _by_frequency(result))
    )
    kept = [answer for answer, count in counts.items() if count >= min_count]
    return sorted(kept, key=lambda answer: (-counts[answer], answer))


class _Images:
    """Distinct images, and an even sample of them (reservoir, seed 0)."""

    def __init__(self, size: int) -> None:
        self.seen, self._size = HashSet64(), size
        self._sample: list[ImageRef] = []
        self._random = random.Random(0)

    def add(self, refs: Sequence[ImageRef]) -> None:
        count = len(self.seen)
        repeated = self.seen.add([hash64(location_id(ref)) for ref in refs])
        for ref in (ref for ref, known in zip(refs, repeated, strict=True) if not known):
            count += 1
            if len(self._sample) < self._size:
                self._sample.append(ref)
            elif (index := self._random.randrange(count)) < self._size:
                self._sample[index] = ref

    def summary(self) -> dict[str, Any]:
        """Return widths and heights of the sample, and how many of its images have no readable size."""
        if not self._sample:
            return {}
        sizes = [size for ref in self._sample if (size := _read_size(ref))]
        counts = {"sampled_images": len(self._sample), "without_size": len(self._sample) - len(sizes)}
        if not sizes:
            return counts
        sides = dict(zip(("width", "height"), zip(*sizes, strict=True), strict=True))
        return {name: {"min": min(s), "median": median(s), "max": max(s)} for name, s in sides.items()} | counts


class _Texts:
    """Lengths and vocabulary of texts."""

    def __init__(self) -> None:
        self._lengths = Counter[int]()
        self._words, self._longest, self._max = HashSet64(), "", 0

    @property
    def count(self) -> int:
        return sum(self._lengths.values())

    def add(self, texts: Sequence[str]) -> None:
        vocabulary: set[str] = set()
        for text in texts:
            words = _WORD.findall(text.lower())
            vocabulary.update(words)
            self._lengths[len(words)] += 1
            if len(words) > self._max:
                self._max, self._longest = len(words), text
        self._words.add([hash64(word) for word in vocabulary])

    def summary(self) -> dict[str, Any]:
        if not self.count:
            return {}
        words = {
            "mean": sum(length * n for length, n in sorted(self._lengths.items())) / self.count,
            "median": self._quantile(0.5),
            "p95": self._quantile(0.95),
            "max": self._max,
        }
        return {"words_per_text": words, "vocabulary": len(self._words), "longest": self._longest}

    def _quantile(self, share: float) -> int:
        """Return the smallest length that at least this share of the texts does not exceed."""
        total = 0
        for length, n in sorted(self._lengths.items()):
            total += n
            if total >= share * self.count:
                return length
        return self._max


class _Answers:
    """Questions, and the frequency of each answer."""

    def __init__(self) -> None:
        self.questions = self.answered = 0
        self._answers, self._kinds = Counter[str](), Counter[str]()

    def add(self, sample: Sample) -> None:
        if "question" not in sample.fields:
            return
        self.questions += 1
        answers = _by_frequency(sample)
        if answers:
            self.answered += 1
            self._answers.update(answers)
            self._kinds[_kind(answers[0])] += 1

    def summary(self) -> dict[str, Any]:
        if not self.questions:
            return {}
        counts = {"questions": self.questions, "answered": self.answered}
        if not self.answered:
            return counts
        return counts | {
            "distinct_answers": len(self._answers),
            "answers": _shares(self._answers, TOP_ANSWERS),
            "answer_kinds": _shares(self._kinds, 3),
        }


def _by_frequency(sample: Sample) -> list[str]:
    """Return all answers to a question with repetitions, the most common one first."""
    value = sample.fields.get("answer", sample.fields.get("answers"))
    values = value if isinstance(value, list) else [value]
    return [answer for answer, n in Counter(v for v in values if isinstance(v, str)).most_common() for _ in range(n)]


def _kind(answer: str) -> str:
    if answer.lower() in ("yes", "no"):
        return "yes/no"
    return "number" if re.fullmatch(r"-?\d+([.,]\d+)?", answer) else "other"


def _shares(counts: Mapping[str, int], top: int) -> dict[str, float]:
    total = sum(counts.values())
    return {name: n / total for name, n in Counter(counts).most_common(top)}


def _read_size(ref: ImageRef) -> tuple[int, int] | None:
    """Return (width, height) of the file's header, or None if it cannot be read."""
    try:
        source = ref.open()
        with warnings.catch_warnings():  # reading a size is safe, however large it is
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
                return opened.size
    except (UnreadableImage, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None
