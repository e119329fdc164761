"""Answers that ignore the photo: the answer given most often to the same question, else to its first words."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from blip.eval.base import Row
from blip.metrics.vqa import normalize_answer, vqa_accuracy


class Guesses:
    """The most frequent answers to the questions of files: JSON lines, or gzipped ones of VQA v2."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for path in paths:
            for question, answers in rows(path):
                for words in prefixes(question):
                    self.counts[words].update(map(normalize_answer, answers))

    def answer(self, question: str) -> str:
        """The answer given most often to the same text, else to its first four, three, two words, one word."""
        known = next(words for words in prefixes(question) if words in self.counts)
        return self.counts[known].most_common(1)[0][0]

    def accuracy(self, questions: Sequence[Row]) -> float:
        """Mean VQA accuracy over rows with `question` and `references`."""
        return sum(vqa_accuracy(self.answer(row["question"]), row["references"]) for row in questions) / len(questions)


def rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Questions and answers of a file."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["question"], row["answers"] if "answers" in row else row["answer"]


def prefixes(question: str) -> list[tuple[str, ...]]:
    """The question's words, its first four, three, two, one, and none."""
    words = tuple(question.lower().replace("?", "").split())
    return list(dict.fromkeys([words, *(words[:n] for n in (4, 3, 2, 1, 0))]))
