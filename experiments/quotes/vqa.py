"""Accuracy of `tiny-vqa` for its card and the pages, from `experiments/vqa/results`.

Each set of questions has a file of `blip eval vqa` and a part of `blind.json`, the accuracy without the photo.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from experiments.quotes.marks import table
from experiments.quotes.results import MISSING, Results, load, value

FOLDER = "experiments/vqa/results"


class QuestionSet(NamedTuple):
    """Questions that `tiny-vqa` is measured on: title, file of results, part of `blind.json`, titles of its kinds."""

    title: str
    file: str
    blind: str
    kinds: tuple[tuple[str, str], ...]


SETS = {
    "generated": QuestionSet(
        "generated questions about the 1,000 photos of Flickr8k dev",
        "vqa-dev.json",
        "dev",
        (("yes/no", "yes/no"), ("what", "what, where, who"), ("count", "how many"), ("color", "colour")),
    ),
    "real": QuestionSet(
        "real questions of VQA v2 about 67 COCO photos",
        "vqa-coco-rank.json",
        "coco",
        (("yes/no", "yes/no"), ("number", "number"), ("other", "other")),
    ),
}


@cache
def read(file: str) -> Results:
    return load(f"{FOLDER}/{file}")


def scores(name: str) -> str:
    """The table of the card for a set of questions."""
    questions = SETS[name]
    metrics, blind = read(questions.file)["metrics"], read("blind.json")[questions.blind]
    rows = [_row("all", metrics["accuracy"], blind.get("all"), bold=True)] + [
        _row(title, metrics[f"accuracy_{kind}"], blind.get(kind)) for kind, title in questions.kinds
    ]
    count = f"{metrics['accuracy']['n']:,} {questions.title}"
    return table((count, "n", "most frequent answer of the kind", "question alone", "`tiny-vqa`"), *rows)


def _row(title: str, metric: Results, blind: float | None, bold: bool = False) -> tuple[str, ...]:
    accuracy = f"{100 * metric['value']:.1f}"
    chance = MISSING if metric.get("chance") is None else f"{100 * metric['chance']:.1f}"
    alone = MISSING if blind is None else f"{blind:.1f}"
    return title, f"{metric['n']:,}", chance, alone, f"{f'**{accuracy}**' if bold else accuracy} {_interval(metric)}"


def _interval(metric: Results) -> str:
    return f"({100 * metric['low']:.1f} to {100 * metric['high']:.1f})"


def measurements() -> str:
    """Rows of `tiny-vqa` in the page of measurements."""
    rows = []
    for questions in SETS.values():
        metric = read(questions.file)["metrics"]["accuracy"]
        alone = value(read("blind.json"), f"{questions.blind}/all")
        accuracy = f"{100 * metric['value']:.1f} % {_interval(metric)}"
        rows.append((f"{metric['n']:,} {questions.title}", accuracy, f"{alone:.1f} %"))
    return table(("questions", "`tiny-vqa`", "from the question alone"), *rows)


def accuracy(name: str) -> str:
    return f"{100 * read(SETS[name].file)['metrics']['accuracy']['value']:.0f} %"


def count(name: str) -> str:
    return f"{read(SETS[name].file)['metrics']['accuracy']['n']:,}"


def question_alone(name: str) -> str:
    return f"{read('blind.json')[SETS[name].blind]['all']:.0f} %"
