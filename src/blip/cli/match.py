"""`blip match`: how well texts fit images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from blip.cli import options as o
from blip.cli.batch_run import BatchRun, DecodedBatch, Record
from blip.cli.commands import option
from blip.cli.settings import configurable
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.io.samples import Sample
    from blip_lite.model import Model


@configurable
def match(
    *,
    inputs: o.Inputs,
    text: o.Text = (),
    texts: o.Texts = None,
    model: o.ModelName = None,
    head: Annotated[
        Literal["itm", "itc", "both"], option(help="itm (match probability), itc (cosine) or both.")
    ] = "both",
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
    found = run.inputs(inputs)
    wanted = _texts_of(found, o.read_texts(text, texts), pairs)
    batch_run = BatchRun(schema="match/1", flags=run, per_key=max(len(lines) for lines in wanted.values()))
    if not batch_run.must_write():
        return 0
    if run.dry_run:
        return batch_run.dry_run(found, model)
    loaded = run.load(model, needs=["match"])

    def describe(good: DecodedBatch) -> list[list[Record]]:
        rows = [_rows(loaded, one.key, image, wanted[one.key], head, max_text_length) for one, image in good]
        return [_chosen(r, sort, top, threshold) for r in rows]

    return batch_run.run(found, len(found), loaded, describe)


def _texts_of(inputs: Sequence[Sample], lines: list[str], pairs: bool) -> dict[str, list[tuple[int, str]]]:
    """Numbered texts of each input: all of them, its own one, or those of its manifest row."""
    if pairs and lines:
        if len(lines) != len(inputs):
            raise UsageError(f"--pairs; {len(inputs)} images and {len(lines)} texts must be as many")
        return {one.key: [(i, line)] for i, (one, line) in enumerate(zip(inputs, lines, strict=True))}
    if lines:
        return {one.key: list(enumerate(lines)) for one in inputs}
    found = {one.key: list(enumerate(one.texts)) for one in inputs}
    missing = next((key for key, own in found.items() if not own), None)
    if missing is not None:
        raise UsageError(f"no texts for {missing}; give -t TEXT, --texts FILE, or a manifest with a column text")
    return found


def _rows(
    model: Model, key: str, image: Image, texts: list[tuple[int, str]], head: str, max_length: int
) -> list[Record]:
    lines = [text for _, text in texts]
    scores = model.match_batch([image], lines, head=head, max_text_length=max_length)  # type: ignore[arg-type]
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


def _chosen(rows: list[Record], sort: bool, top: int | None, threshold: float | None) -> list[Record]:
    if threshold is not None:
        rows = [row for row in rows if (row["itm"] if row["itm"] is not None else row["itc"]) >= threshold]
    if sort or top:
        rows = sorted(rows, key=lambda row: -(row["itm"] if row["itm"] is not None else row["itc"]))
    return rows[:top]
