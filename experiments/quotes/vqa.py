"""Accuracy of `tiny-vqa` for its card and the pages, from `experiments/vqa/results.json` (`vqa/measure.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.quotes.marks import table
from experiments.quotes.results import Results, load

SETS = {  # in the order of the card: title, and titles of the kinds of questions
    "coco-mini": "real questions about COCO photos (`coco-mini`)",
    "coco-qa": "real questions about COCO photos (`coco-qa`)",
    "daquar-dev": "real questions about rooms (DAQUAR, photos not trained on)",
    "coco-dev": "generated questions about COCO photos (`coco-dev`)",
    "flickr-dev": "generated questions about Flickr8k dev",
}
KINDS = {
    "all": "all",
    "yes/no": "yes/no",
    "number": "number",
    "other": "other",
    "what": "what, where, who",
    "count": "how many",
    "color": "colour",
}
GENERATED, REAL = "coco-dev", "coco-mini"


def results() -> Results:
    return load("experiments/vqa/results.json")


def scores() -> str:
    """The table of the card: a row for each kind of questions of each set."""
    head = ("questions", "n", "most frequent answer of the kind", "question alone", "grey picture", "`tiny-vqa`")
    return table(head, *(row for name in SETS for row in _rows(name)))


def _rows(name: str) -> Iterator[tuple[str, ...]]:
    for kind, result in results()[name].items():
        title = f"**{SETS[name]}**" if kind == "all" else KINDS[kind]
        guesses = (f"{result[guess]:.1f}" for guess in ("majority", "question", "grey"))
        yield title, f"{result['questions']:,}", *guesses, _accuracy(result, kind == "all")


def _accuracy(result: Results, bold: bool) -> str:
    value, (low, high) = f"{result['accuracy']:.1f}", result["interval"]
    return f"{f'**{value}**' if bold else value} ({low:.1f} to {high:.1f})"


def measurements() -> str:
    """Rows of `tiny-vqa` in the page of measurements."""
    rows = []
    for name, title in SETS.items():
        result = results()[name]["all"]
        rows.append((f"{result['questions']:,} {title}", _accuracy(result, False), f"{result['question']:.1f}"))
    return table(("questions", "`tiny-vqa`, % (95 % interval)", "from the question alone, %"), *rows)


def accuracy(name: str) -> str:
    return f"{results()[name]['all']['accuracy']:.0f} %"


def count(name: str) -> str:
    return f"{results()[name]['all']['questions']:,}"


def question_alone(name: str) -> str:
    return f"{results()[name]['all']['question']:.0f} %"
