"""`blip match`: score texts against images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun
from blip.cli.batches import DecodedBatch, Record
from blip.cli.commands import option
from blip.cli.output import plural
from blip.cli.settings import configurable
from blip.cli.texts import read_texts
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.io.samples import Sample
    from blip_lite.model import Model

Head = Literal["itm", "itc", "both"]


@configurable
def match(
    *,
    inputs: o.Inputs,
    text: o.Text = (),
    texts: o.Texts = None,
    model: o.ModelName = None,
    head: Annotated[Head, option(help="itm (match probability), itc (cosine) or both.")] = "both",
    sort: Annotated[bool, option(help="Sort the texts of each image, best first.")] = False,
    top: Annotated[int | None, option("-n", "--top", min=1, help="Only the N best texts of each image.")] = None,
    threshold: Annotated[float | None, option(help="Only pairs with an itm (or itc) of at least X.")] = None,
    max_text_length: Annotated[int, option(min=3, help="Maximum tokens per text.")] = 35,
    pairs: Annotated[bool, option(help="Score image i with text i instead of all combinations.")] = False,
    run: o.Run,
) -> int:
    """Score texts against images: itm is a probability, itc a cosine in [-1, 1].

    Example: blip match cat.jpg -t 'a cat' -t 'a dog'
    """
    samples = run.inputs(inputs)
    numbered = _number_texts(samples, read_texts(text, texts), pairs)
    batch_run = BatchRun(schema="match/1", flags=run, per_key=max(len(lines) for lines in numbered.values()))
    if not batch_run.is_needed(samples, o.model_name(model)):
        return 0
    loaded = run.load(model, needs=["match"])

    def describe(batch: DecodedBatch) -> list[list[Record]]:
        rows = [_score(loaded, d.sample.key, d.image, numbered[d.sample.key], head, max_text_length) for d in batch]
        return [_select(r, sort, top, threshold) for r in rows]

    return batch_run.run(samples, [loaded], describe)


def _number_texts(samples: Sequence[Sample], lines: list[str], pairs: bool) -> dict[str, list[tuple[int, str]]]:
    """Return the texts of each input by key, with their indices: all lines, line i for input i, or its own texts."""
    if pairs and lines:
        if len(lines) != len(samples):
            counts = f"{plural(len(samples), 'image')} and {plural(len(lines), 'text')}"
            raise UsageError(f"--pairs; {counts}, their numbers must match")
        return {sample.key: [(i, lines[i])] for i, sample in enumerate(samples)}
    if lines:
        return {sample.key: list(enumerate(lines)) for sample in samples}
    numbered = {sample.key: list(enumerate(sample.texts)) for sample in samples}
    for key, texts in numbered.items():
        if not texts:
            raise UsageError(f"no texts for {key}; give -t TEXT, --texts FILE, or a table with a column text")
    return numbered


def _score(
    model: Model, key: str, image: Image, texts: list[tuple[int, str]], head: Head, max_length: int
) -> list[Record]:
    """Return a record for each text of an image."""
    scores = model.match_batch([image], [text for _, text in texts], head=head, max_text_length=max_length)
    return [
        {
            "schema": "match/1",
            "key": key,
            "text": text,
            "text_index": number,
            "itm": None if scores.itm is None else float(scores.itm[0, i]),
            "itc": None if scores.itc is None else float(scores.itc[0, i]),
            "model": model.name,
        }
        for i, (number, text) in enumerate(texts)
    ]


def _select(rows: list[Record], sort: bool, top: int | None, threshold: float | None) -> list[Record]:
    """Filter, sort and cut the rows by itm or, without it, by itc."""

    def score(row: Record) -> float:
        return float(row["itc"] if row["itm"] is None else row["itm"])

    if threshold is not None:
        rows = [row for row in rows if score(row) >= threshold]
    if sort or top:
        rows = sorted(rows, key=score, reverse=True)
    return rows[:top]
