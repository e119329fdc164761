"""`blip ask`: answers to questions about images, free or chosen from a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun
from blip.cli.batches import DecodedBatch, Record
from blip.cli.commands import DECODING, GENERAL, option
from blip.cli.settings import configurable
from blip.cli.texts import closed_answers, read_texts
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from blip.io.samples import Sample
    from blip_lite.model import Model
    from blip_lite.results import Answer, Verdict

RANDOM, RANDOM_ANSWERER = "random-tiny", "random-tiny-vqa"  # random weights serve every verb
Question = tuple[str, Any]  # its text, and its id if a table has one


@dataclass(kw_only=True)
class AskRun(o.Run):
    """Flags of `ask`, where -q is a question."""

    quiet: Annotated[bool, option(group=GENERAL, help="Hide notes and the summary.")] = False


@dataclass(kw_only=True)
class AnswerFlags:
    """Flags of answering."""

    answers: Annotated[
        str | None, option(metavar="LIST", help="Allowed answers: a file (one per line) or a comma-separated list.")
    ] = None
    mode: Annotated[
        Literal["generate", "rank"] | None,
        option(help="generate, or rank the allowed answers.", default="rank with --answers"),
    ] = None
    top: Annotated[int, option("-n", "--top", min=1, max=32, help="Number of answers per question, best first.")] = 1
    k: Annotated[int, option(min=1, group=DECODING, help="Answers kept after their first token (rank mode).")] = 128
    beams: Annotated[int, option(min=1, max=32, group=DECODING, help="Beam width; 1 is greedy.")] = 3
    max_length: Annotated[int, option(min=2, group=DECODING, help="Maximum tokens with start and end.")] = 10
    min_length: Annotated[int, option(min=0, group=DECODING, help="Minimum tokens with start and end.")] = 1


@configurable
def ask(
    *,
    inputs: o.Inputs,
    question: Annotated[
        tuple[str, ...], option("-q", "--question", metavar="TEXT", help="A question (repeatable).")
    ] = (),
    questions: Annotated[
        Path | None, option(metavar="FILE", help="Questions for every image: a file, one per line.")
    ] = None,
    pair: Annotated[
        Path | None, option(metavar="FILE", help="Second image: questions are true or false statements about both.")
    ] = None,
    model: o.AnsweringModelName = None,
    answer: AnswerFlags,
    run: AskRun,
) -> int:
    """Answer questions about images.

    Example: blip ask kitchen.jpg -q 'how many chairs?' -m vqa-base
    """
    closed = closed_answers(answer.answers, answer.mode)
    given: list[Question] = [(line, None) for line in read_texts(question, questions, "--questions")]
    samples = run.inputs(inputs)
    if pair is not None:
        return _compare(samples, pair, [line for line, _ in given], model, run)
    by_key = {sample.key: given or _own_question(sample) for sample in samples}
    if not any(by_key.values()):
        raise UsageError("no questions; give -q QUESTION, --questions FILE, or a table with a column question")
    samples = [sample if by_key[sample.key] else _without_question(sample) for sample in samples]
    batch_run = BatchRun(schema="answer/1", flags=run, per_key=max(len(lines) for lines in by_key.values()))
    if not batch_run.is_needed(samples, o.model_name(model, o.ANSWERER)):
        return 0
    name = RANDOM_ANSWERER if o.model_name(model) == RANDOM else model
    loaded = run.load(name, o.ANSWERER, needs=["answer"])
    decoding = {"beams": answer.beams, "max_length": answer.max_length, "min_length": answer.min_length}
    options: dict[str, Any] = {"answers": closed, "top": answer.top, **({"k": answer.k} if closed else decoding)}

    def describe(batch: DecodedBatch) -> Sequence[list[Record]]:
        pairs = [(decoded.image, line) for decoded in batch for line, _ in by_key[decoded.sample.key]]
        answers = iter(loaded.answer_batch([image for image, _ in pairs], [line for _, line in pairs], **options))
        return [
            [
                _record(decoded.sample, line, next(answers), loaded, question_id=question_id)
                for line, question_id in by_key[decoded.sample.key]
            ]
            for decoded in batch
        ]

    return batch_run.run(samples, [loaded], describe)


def _compare(samples: Sequence[Sample], pair: Path, statements: list[str], model: str | None, run: AskRun) -> int:
    """Judge statements about each input and the second image."""
    from blip_lite.image import read

    if not statements:
        raise UsageError("--pair: no statement; give -q 'The left image shows a dog'")
    batch_run = BatchRun(schema="answer/1", flags=run, per_key=len(statements))
    if not batch_run.is_needed(samples, o.model_name(model)):
        return 0
    name = "random-tiny-nlvr" if o.model_name(model) == RANDOM else model
    loaded = replace(run, quiet=True).load(name, needs=["compare"])  # no bundled model can
    second = read(pair)

    def describe(batch: DecodedBatch) -> Sequence[list[Record]]:
        return [
            [
                _record(decoded.sample, line, loaded.compare(decoded.image, second, line), loaded, pair=str(pair))
                for line in statements
            ]
            for decoded in batch
        ]

    return batch_run.run(samples, [loaded], describe)


def _record(
    sample: Sample,
    question: str,
    result: Answer | Verdict,
    model: Model,
    *,
    pair: str | None = None,
    question_id: Any = None,
) -> Record:
    return {
        "schema": "answer/1",
        "key": sample.key,
        "pair": pair,
        "question": question,
        **result.to_dict(),
        "question_id": question_id,
        "model": model.name,
    }


def _own_question(sample: Sample) -> list[Question]:
    """Return the question of an input's table row, if it has one."""
    line = sample.fields.get("question")
    return [(line, sample.fields.get("question_id"))] if isinstance(line, str) and line.strip() else []


def _without_question(sample: Sample) -> Sample:
    """Return a sample that fails when it is read, unless it does so anyway."""
    from blip.io.byte_sources import MissingSource
    from blip.io.samples import ImageRef

    if isinstance(sample.image.source, MissingSource):
        return sample
    return replace(sample, images=(ImageRef(MissingSource(sample.key, "no question in its row")),))
