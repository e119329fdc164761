"""Accuracy of answers that ignore the photo: the most frequent one, and the most frequent one to the same question.

    python experiments/vqa/blind.py --learn runs/vqa/train.jsonl ../shared/data/vqa-v2-questions.jsonl.gz \
        --measure runs/vqa/dev.jsonl runs/vqa/coco.jsonl

The question alone: the answer given most often to the same text, else to its first four, three, two words, one word.
Accuracy by the official rule, over all rows and by kind.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from blip.metrics.vqa import normalize_answer, vqa_accuracy

Row = tuple[str, list[str], str]  # question, answers, kind
Counts = Mapping[tuple[str, ...], Counter[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", nargs="+", type=Path, required=True)
    parser.add_argument("--measure", nargs="+", type=Path, required=True)
    args = parser.parse_args()
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for path in args.learn:
        for question, answers, _ in rows(path):
            for words in prefixes(question):
                counts[words].update(map(normalize_answer, answers))
    for path in args.measure:
        scores_by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for question, answers, kind in rows(path):
            always, by_question = most_frequent(counts, ()), most_frequent(counts, words_of(question))
            scores = vqa_accuracy(always, answers), vqa_accuracy(by_question, answers)
            scores_by_kind[kind].append(scores)
            scores_by_kind["all"].append(scores)
        print(f"{path}: most frequent answer of the learnt ones, question alone")
        for kind, scores in scores_by_kind.items():
            always_score, question_score = (100 * sum(s[i] for s in scores) / len(scores) for i in (0, 1))
            print(f"  {kind:<8}{len(scores):>6}{always_score:>8.1f}{question_score:>8.1f}")


def rows(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            answers = row["answers"] if "answers" in row else row["answer"]
            yield row["question"], answers, row.get("kind", row.get("answer_type", ""))


def words_of(question: str) -> tuple[str, ...]:
    return tuple(question.lower().replace("?", "").split())


def prefixes(question: str) -> list[tuple[str, ...]]:
    words = words_of(question)
    return list(dict.fromkeys([words, *(words[:n] for n in (4, 3, 2, 1, 0))]))


def most_frequent(counts: Counts, words: tuple[str, ...]) -> str:
    for known in (words, *(words[:n] for n in (4, 3, 2, 1, 0))):
        if counts.get(known):
            return counts[known].most_common(1)[0][0]
    return ""


if __name__ == "__main__":
    main()
