"""VQA: free or ranked answers and their accuracy by the official rule (original: train_vqa.py evaluation)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import first_of_each, question
from blip.eval.base import Measure, Predictions, Report, Row, Tick, measure
from blip.eval.photos import Photos
from blip.inference import Scoring
from blip.io.samples import Sample
from blip.metrics.vqa import vqa_accuracy
from blip.model.blip import BlipModel
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.decoding import Beam
from blip_lite.errors import UsageError

QUESTIONS = 16  # in one pass


@dataclass(frozen=True, kw_only=True)
class VqaEval:
    """Accuracy over all questions and by `answer_type` (or `kind`), where the rows name one.

    mode "rank": out of `answers`, the `k` with the likeliest first token scored whole (`inference.rank_answers`).
    """

    mode: Literal["generate", "rank"] = "generate"
    answers: tuple[str, ...] = ()
    k: int = 128
    scoring: Scoring = "nll"
    decoding: Beam = field(default_factory=lambda: Beam(num_beams=3, max_length=10, min_length=1))

    name: ClassVar[str] = "vqa"
    capability: ClassVar[str] = "answer"

    def __post_init__(self) -> None:
        if self.mode == "rank" and not self.answers:
            raise UsageError(
                "mode 'rank': needs a list of answers; give --answers FILE (a list of the original, or text)"
            )

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return reading.open(spec, check=question)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """`{"question_id", "answer"}`, the format of the evaluation server. Each photo is looked at once."""
        asked: dict[Any, list[int]] = {}
        for i in range(len(source)):
            asked.setdefault(source[i].image, []).append(i)
        groups = list(asked.values())
        closed = tokenizer.encode(list(self.answers), first="dec") if self.mode == "rank" else None
        said: dict[int, str] = {}
        firsts = ((n, source[g[0]].image, source[g[0]].where or source[g[0]].key) for n, g in enumerate(groups))
        for numbers, pixels in photos.read(firsts, model):
            embeds = model.encode_image(pixels)
            todo = [(place, i) for place, n in enumerate(numbers) for i in groups[n]]
            for start in range(0, len(todo), QUESTIONS):
                part = todo[start : start + QUESTIONS]
                texts = [question(source[i]).question for _, i in part]
                answers = self._answer(model, tokenizer, embeds[[place for place, _ in part]], texts, closed)
                said |= {i: text for (_, i), text in zip(part, answers, strict=True)}
                if tick:
                    tick(len(said), len(source))
        return [{"question_id": question_id(source[i]), "answer": said[i]} for i in range(len(source)) if i in said]

    def _answer(
        self, model: BlipModel, tokenizer: Tokenizer, embeds: torch.Tensor, texts: list[str], closed: Encoded | None
    ) -> list[str]:
        if closed is None:
            return [found[0].text for found in inference.answer(model, tokenizer, embeds, texts, self.decoding)]
        ranked = inference.rank_answers(model, tokenizer, embeds, texts, closed, k=self.k, scoring=self.scoring)
        return [self.answers[int(place)] for place in ranked.indices[:, 0]]

    def score(self, source: Source, predictions: Predictions) -> Report:
        kept = first_of_each(predictions, "question_id")
        said = {p["question_id"]: str(p["answer"]) for p in kept}
        records = [source[i] for i in range(len(source)) if question_id(source[i]) in said]
        rows = [_row(record, said[question_id(record)]) for record in records]
        known = [row for row in rows if row["references"]]
        return Report(
            measures=_measures(known, records) if known else {},
            rows=rows,
            predictions=[dict(p) for p in kept],
            skipped={} if known else {"accuracy": "the rows have no answers"},
            images=[record.images for record in records],
        )


def question_id(record: Sample) -> int | str:
    """What names a question: its `question_id`, else its place."""
    given = record.fields.get("question_id")
    return given if isinstance(given, int | str) else record.where or record.key


def references(record: Sample) -> list[str]:
    """The answers that people gave, as often as they gave them."""
    given = record.fields.get("answers", record.fields.get("answer"))
    return [given] if isinstance(given, str) else [str(answer) for answer in given or ()]


def _row(record: Sample, answer: str) -> Row:
    people = references(record)
    row: Row = {
        "task": "vqa",
        "key": str(question_id(record)),
        "question": str(record.fields["question"]),
        "prediction": answer,
        "references": people,
        "scores": {"accuracy": vqa_accuracy(answer, people)} if people else {},
    }
    kind = record.fields.get("answer_type", record.fields.get("kind"))
    return row | {"kind": str(kind)} if kind else row


def _measures(rows: Sequence[Row], records: Sequence[Sample]) -> dict[str, Measure]:
    scores = np.array([row["scores"]["accuracy"] for row in rows])
    measures = {"accuracy": measure(scores, unit="share", chance=_majority([row["references"] for row in rows]))}
    for kind in sorted({row["kind"] for row in rows if "kind" in row}):
        chosen = [i for i, row in enumerate(rows) if row.get("kind") == kind]
        common = _majority([rows[i]["references"] for i in chosen])
        measures[f"accuracy_{kind}"] = measure(scores[chosen], unit="share", chance=common)
    return measures


def _majority(people: Sequence[Sequence[str]]) -> float:
    """What the one answer that was given most often reaches for all of these questions."""
    common = Counter(answer for answers in people for answer in answers).most_common(1)[0][0]
    return float(np.mean([vqa_accuracy(common, answers) for answers in people]))
