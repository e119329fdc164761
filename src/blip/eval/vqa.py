"""VQA: generated or ranked answers and their accuracy by the official rule (original: train_vqa.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from blip import inference
from blip.data.sources import Reading, Source, Spec
from blip.data.task_rows import question, row_ids
from blip.eval.base import Measure, Predictions, Report, Row, Tick, measure
from blip.eval.photos import Photos
from blip.eval.predictions import VQA, Form, match
from blip.inference import Scoring
from blip.io.samples import Sample
from blip.metrics.vqa import vqa_accuracy
from blip.model.blip import BlipModel
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.decoding import Beam
from blip_lite.errors import UsageError

QUESTIONS_PER_PASS = 16
ID = "question_id"


@dataclass(frozen=True, kw_only=True)
class VqaEval:
    """Accuracy over all questions, and by column `answer_type` (or `kind`) if the rows have one.

    mode "rank": choose among `answers`; the `k` most probable by first token are scored (`inference.rank_answers`).
    """

    mode: Literal["generate", "rank"] = "generate"
    answers: tuple[str, ...] = ()
    k: int = 128
    scoring: Scoring = "nll"
    decoding: Beam = field(default_factory=lambda: Beam(num_beams=3, max_length=10, min_length=1))

    name: ClassVar[str] = "vqa"
    capability: ClassVar[str] = "answer"
    form: ClassVar[Form] = VQA
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_")

    def __post_init__(self) -> None:
        if self.mode == "rank" and not self.answers:
            raise UsageError("mode 'rank': needs a list of answers; give --answers FILE (the original's list or text)")

    def open(self, spec: Spec | Sequence[Spec], reading: Reading) -> Source:
        return reading.open(spec, check=question)

    @torch.inference_mode()
    def predict(
        self, model: BlipModel, tokenizer: Tokenizer, source: Source, photos: Photos, tick: Tick | None = None
    ) -> list[Row]:
        """Return `{"question_id", "answer"}`, the format of the evaluation server. Each image is encoded once."""
        by_image: dict[Any, list[int]] = {}
        for i in range(len(source)):
            by_image.setdefault(source[i].image, []).append(i)
        groups = list(by_image.values())
        allowed = tokenizer.encode(list(self.answers), first="dec") if self.mode == "rank" else None
        answers: dict[int, str] = {}
        images = ((n, source[g[0]].image, source[g[0]].where or source[g[0]].key) for n, g in enumerate(groups))
        for numbers, pixels in photos.read(images, model):
            embeds = model.encode_image(pixels)
            questions = [(row, i) for row, n in enumerate(numbers) for i in groups[n]]
            for start in range(0, len(questions), QUESTIONS_PER_PASS):
                part = questions[start : start + QUESTIONS_PER_PASS]
                texts = [question(source[i]).question for _, i in part]
                results = self._answer(model, tokenizer, embeds[[row for row, _ in part]], texts, allowed)
                answers |= {i: text for (_, i), text in zip(part, results, strict=True)}
                if tick:
                    tick(len(answers), len(source))
        ids = row_ids(source, ID)
        return [{"question_id": ids[i], "answer": answers[i]} for i in sorted(answers)]

    def _answer(
        self, model: BlipModel, tokenizer: Tokenizer, embeds: torch.Tensor, texts: list[str], allowed: Encoded | None
    ) -> list[str]:
        if allowed is None:
            return [best[0].text for best in inference.answer(model, tokenizer, embeds, texts, self.decoding)]
        ranked = inference.rank_answers(model, tokenizer, embeds, texts, allowed, k=self.k, scoring=self.scoring)
        return [self.answers[int(place)] for place in ranked.indices[:, 0]]

    def score(self, source: Source, predictions: Predictions, *, allow_missing: bool = False) -> Report:
        ids = list(map(str, row_ids(source, ID)))
        parsed = self.form.parse(predictions)
        matched = match(ids, parsed, lambda row: str(row["question_id"]), allow_missing=allow_missing)
        chosen = [(name, source[i]) for i, name in enumerate(ids) if name in matched.rows]
        samples = [sample for _, sample in chosen]
        rows = [_row(name, sample, matched.rows[name]["answer"]) for name, sample in chosen]
        answered = [row for row in rows if row["references"]]
        return Report(
            measures=_measures(answered) if answered else {},
            rows=rows,
            predictions=[matched.rows[name] for name in dict(chosen)],
            skipped=_unanswered(len(rows) - len(answered), len(rows)),
            images=[sample.images for sample in samples],
            coverage=matched.coverage,
        )


def _unanswered(count: int, total: int) -> dict[str, str]:
    if count == total:
        return {"accuracy": "the rows have no answers"}
    return {"questions without answers": f"{count} of {total}, not scored"} if count else {}


def references(sample: Sample) -> list[str]:
    """The answers of all annotators, with repetitions."""
    value = sample.fields.get("answers", sample.fields.get("answer"))
    return [value] if isinstance(value, str) else [str(answer) for answer in value or ()]


def _row(name: str, sample: Sample, answer: str) -> Row:
    answers = references(sample)
    row: Row = {
        "task": "vqa",
        "key": name,
        "question": str(sample.fields["question"]),
        "prediction": answer,
        "references": answers,
        "scores": {"accuracy": vqa_accuracy(answer, answers)} if answers else {},
    }
    kind = sample.fields.get("answer_type", sample.fields.get("kind"))
    return row | {"kind": str(kind)} if kind else row


def _measures(rows: Sequence[Row]) -> dict[str, Measure]:
    scores = np.array([row["scores"]["accuracy"] for row in rows])
    measures = {"accuracy": measure(scores, unit="share", chance=_majority([row["references"] for row in rows]))}
    for kind in sorted({row["kind"] for row in rows if "kind" in row}):
        chosen = [i for i, row in enumerate(rows) if row.get("kind") == kind]
        common = _majority([rows[i]["references"] for i in chosen])
        measures[f"accuracy_{kind}"] = measure(scores[chosen], unit="share", chance=common)
    return measures


def _majority(references: Sequence[Sequence[str]]) -> float:
    """Accuracy of giving the most frequent answer to all questions."""
    common = Counter(answer for answers in references for answer in answers).most_common(1)[0][0]
    return float(np.mean([vqa_accuracy(common, answers) for answers in references]))
