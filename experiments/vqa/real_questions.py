"""Real questions about photos: DAQUAR's, in ordinary words and in VQA's way of ten answers, and those of VQA v2."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.vqa.parse import COLORS

RULES = tomllib.loads((Path(__file__).parent / "daquar.toml").read_text())
SPELLING: Mapping[str, str] = RULES["spelling"]
USUAL: Mapping[str, Sequence[str]] = RULES["answers"]
NUMBER, COLOR = re.compile(r"how many\b"), re.compile(r"\bcolors?\b")

Real = tuple[str, dict[str, int], str, str]  # question, answers with how often, kind, form


def daquar_questions(sidecar: Mapping[str, Any]) -> Iterator[Real]:
    """The questions of a DAQUAR photo; a list as answer ("pillow, blanket") counts for each of its parts."""
    for row in sidecar["questions"]:
        question = spelt(row["question"])
        parts = [spelt(part) for answer in row["answers"] for part in answer.split(",")]
        answers = Counter(word for part in dict.fromkeys(parts) if part for word in USUAL.get(part, [part]))
        kind = "count" if NUMBER.match(question) else "color" if COLOR.search(question) else "what"
        if kind == "color" and len(parts) == 2 and set(parts) <= COLORS:
            answers[f"{parts[0]} and {parts[1]}"] += 2
        if answers:
            yield question, dict(answers), kind, f"daquar {kind}"


def spelt(text: str) -> str:
    """The text in lower case, with its words spelt in the ordinary way."""
    words = text.lower().strip(" .").split()
    marked = [re.fullmatch(r"(.*?)([?,.]*)", word) for word in words]
    return " ".join(SPELLING.get(m[1], m[1]) + m[2] for m in marked if m).replace(" ?", "?")


def vqa_questions(sidecar: Mapping[str, Any]) -> Iterator[Real]:
    """VQA v2 questions of a photo or a row without one, with the answers of ten people."""
    for row in sidecar.get("questions") or ([sidecar] if "question" in sidecar else ()):
        answers = Counter(answer.lower() for answer in row["answers"])
        yield row["question"], dict(answers), row.get("answer_type") or answer_type(answers), "real"


def answer_type(answers: Mapping[str, int]) -> str:
    """VQA's type of the most frequent answer: yes/no, number, or other."""
    best = max(answers, key=answers.__getitem__)
    return "yes/no" if best in ("yes", "no") else "number" if best.isdigit() else "other"
