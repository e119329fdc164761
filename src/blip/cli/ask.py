"""`blip ask`: answers to questions about images, free or chosen from a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun, DecodedBatch, Record
from blip.cli.commands import DECODING, GENERAL, option
from blip.cli.settings import configurable
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from blip.io.samples import Sample
    from blip_lite.model import Model

RANDOM, RANDOM_ANSWERER = "random-tiny", "random-tiny-vqa"  # random weights serve every verb
Question = tuple[str, Any]  # its text, and its id where a manifest gives one


@dataclass(kw_only=True)
class AskRun(o.Run):
    """Flags of `ask`, where -q is a question."""

    quiet: Annotated[bool, option(group=GENERAL, help="Hide notes and the summary.")] = False


@dataclass(kw_only=True)
class AnswerFlags:
    """How answers are found."""

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
    model: o.ModelName = None,
    answer: AnswerFlags,
    run: AskRun,
) -> int:
    """Answer questions about images.

    Example: blip ask kitchen.jpg -q 'how many chairs?' -m vqa-base
    """
    closed = o.closed_answers(answer.answers, answer.mode)
    asked: list[Question] = [(line, None) for line in o.read_texts(question, questions, "--questions")]
    found = run.inputs(inputs)
    if pair is not None:
        return _judge(found, pair, [line for line, _ in asked], model, run)
    wanted = {one.key: asked or _own(one) for one in found}
    if not any(wanted.values()):
        raise UsageError("no questions; give -q QUESTION, --questions FILE, or a manifest with a column question")
    found = [one if wanted[one.key] else _unasked(one) for one in found]
    batch_run = BatchRun(schema="answer/1", flags=run, per_key=max(len(own) for own in wanted.values()))
    if not batch_run.must_write():
        return 0
    if run.dry_run:
        return batch_run.dry_run(found, o.model_name(model, o.ANSWERER))
    name = RANDOM_ANSWERER if o.model_name(model) == RANDOM else model
    loaded = run.load(name, o.ANSWERER, needs=["answer"])
    decoding = {"beams": answer.beams, "max_length": answer.max_length, "min_length": answer.min_length}
    how = decoding if closed is None else {"k": answer.k}
    answerer = _Answerer(loaded, wanted, {"answers": closed, "top": answer.top, **how})
    return batch_run.run(found, len(found), loaded, answerer)


def _judge(found: Sequence[Sample], pair: Path, statements: list[str], model: str | None, run: AskRun) -> int:
    """Records of statements about each input and the second image."""
    from blip_lite.image import read

    if not statements:
        raise UsageError("--pair: no statement; give -q 'The left image shows a dog'")
    batch_run = BatchRun(schema="answer/1", flags=run, per_key=len(statements))
    if not batch_run.must_write():
        return 0
    if run.dry_run:
        return batch_run.dry_run(found, model)
    name = "random-tiny-nlvr" if o.model_name(model) == RANDOM else model
    loaded = replace(run, quiet=True).load(name, needs=["compare"])  # no bundled model can
    second = read(pair)

    def describe(good: DecodedBatch) -> Sequence[list[Record]]:
        return [
            [
                {
                    "schema": "answer/1",
                    "key": one.key,
                    "pair": str(pair),
                    "question": line,
                    **loaded.compare(image, second, line).to_dict(),
                    "model": loaded.name,
                }
                for line in statements
            ]
            for one, image in good
        ]

    return batch_run.run(found, len(found), loaded, describe)


def _own(one: Sample) -> list[Question]:
    """The question of an input's manifest row, if there is one."""
    line = one.fields.get("question")
    return [(line, one.fields.get("question_id"))] if isinstance(line, str) and line.strip() else []


def _unasked(one: Sample) -> Sample:
    """The input as one that fails when it is read, as a broken row does by itself."""
    from blip.io.byte_sources import MissingSource
    from blip.io.samples import ImageRef

    return (
        one
        if isinstance(one.image.source, MissingSource)
        else replace(one, images=(ImageRef(MissingSource(one.key, "no question in its row")),))
    )


@dataclass
class _Answerer:
    """The records of a few images: one for each question of each."""

    model: Model
    wanted: dict[str, list[Question]]
    how: dict[str, Any]

    def __call__(self, good: DecodedBatch) -> Sequence[list[Record]]:
        pairs = [(image, line) for one, image in good for line, _ in self.wanted[one.key]]
        found = iter(self.model.answer_batch([image for image, _ in pairs], [line for _, line in pairs], **self.how))
        return [
            [
                {
                    "schema": "answer/1",
                    "key": one.key,
                    "question": line,
                    **next(found).to_dict(),
                    "question_id": number,
                    "model": self.model.name,
                }
                for line, number in self.wanted[one.key]
            ]
            for one, _ in good
        ]
