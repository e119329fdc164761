"""`blip caption`: describe images, one record per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blip.cli import options as o
from blip.cli.batch_run import Flow, Good, Record
from blip_lite.decoding import make_decoding, to_record

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.io.samples import Sample
    from blip.io.sidecars import Sidecars
    from blip_lite.decoding import Decoding
    from blip_lite.model import Model
    from blip_lite.results import Caption

RUN = o.Run()


@o.flat
def caption(
    inputs: o.Inputs = None,
    model: o.ModelName = None,
    beams: Annotated[int | None, typer.Option(min=1, max=32, help="Beam width, 3 if not given; 1 is greedy.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Nucleus sampling instead of beams.")] = False,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="With --sample.")] = 0.9,
    top_k: Annotated[int, typer.Option(min=0, help="With --sample; 0 = off.")] = 50,
    temperature: Annotated[float, typer.Option(min=0.01, help="With --sample.")] = 1.0,
    max_length: Annotated[int | None, typer.Option(min=2, help="All ids: prompt, start, end; default 20.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Ids after the prompt, instead.")] = None,
    min_length: Annotated[int, typer.Option(min=0, help="All ids.")] = 5,
    prompt: Annotated[str | None, typer.Option(help="Text the caption goes on from; default the model's.")] = None,
    keep_prompt: Annotated[bool, typer.Option("--keep-prompt", help="Leave the prompt in the caption.")] = False,
    num_captions: Annotated[int, typer.Option("-n", "--num-captions", min=1, max=32, help="Captions an image.")] = 1,
    repetition_penalty: Annotated[float | None, typer.Option(help="Default 1.0; 1.1 with --sample.")] = None,
    itm: Annotated[str | None, typer.Option(help="Model that adds a match score per caption.")] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Of a video the caption of its best-matching frame.")
    ] = False,
    seed: o.Seed = 0,
    sidecar: Annotated[str | None, typer.Option(help="Write a text beside each image: .txt or .xmp.")] = None,
    sidecar_dir: Annotated[Path | None, typer.Option(help="Folder that mirrors the tree instead.")] = None,
    xmp: Annotated[bool, typer.Option("--xmp", help="Same as --sidecar .xmp.")] = False,
    prefix: Annotated[str, typer.Option(help="Before each sidecar text.")] = "",
    suffix: Annotated[str, typer.Option(help="After each sidecar text.")] = "",
    run: o.Run = RUN,
) -> int:
    """Describe images. Example: blip caption holiday/ --sidecar .txt"""
    from blip_lite.errors import UsageError

    if sample and beams is not None:
        raise UsageError("--beams with --sample; must be one of the two")
    if max_new_tokens is not None and max_length is not None:
        raise UsageError("--max-new-tokens with --max-length; must be one of the two")
    if summary and (sidecar or sidecar_dir or xmp or run.shard):
        raise UsageError("--summary with sidecars or --shard; must be without them, name other videos in other runs")
    found = run.inputs(inputs)
    beside = _sidecars(sidecar or (".xmp" if xmp else None), sidecar_dir, run.existing, prefix, suffix)
    to_stdout = beside is None or run.output is not None or run.form is not None
    flow = Flow(schema="caption/1", flags=replace(run, existing=None) if beside else run, show=to_stdout)
    if not flow.must_write():
        return 0
    wanted = [one for one in found if beside is None or beside.wanted(one)]
    if run.dry_run:
        return flow.dry_run(wanted, model)
    if not wanted:
        o.note(f"{len(found)} inputs, all have their texts", run.quiet)
        return 0
    loaded = run.load_any(model)
    loaded.require("sample" if sample else "caption")
    judge = None if itm is None else replace(run, image_size=None, compile=False).load_any(itm)
    if summary:
        wanted = _of_clips(wanted)
        flow.written = _Summary(wanted)
        judge = judge or (loaded if "match" in loaded.capabilities else None)
    decoding = make_decoding(
        beams=beams or 3,
        sample=sample,
        top_p=top_p,
        top_k=top_k,
        temperature=temperature,
        min_length=min_length,
        max_length=max_length or _length(loaded, prompt, max_new_tokens),
        num_captions=num_captions,
        repetition_penalty=repetition_penalty,
    )
    describe = _Captioner(loaded, judge, decoding, prompt, keep_prompt, seed, beside)
    return flow.run(wanted, len(found), loaded, describe)


def _length(model: Model, prompt: str | None, new: int | None) -> int:
    """All ids of a caption: the original's 20, or those of the prompt and `new` ones (the end is one of them)."""
    if new is None:
        return 20
    return len(model.tokenizer.prompt_ids(model.config.prompt if prompt is None else prompt)) + new


def _sidecars(
    extension: str | None, folder: Path | None, existing: str | None, prefix: str, suffix: str
) -> Sidecars | None:
    from blip.io.sidecars import Sidecars

    if extension is None and folder is None:
        return None
    return Sidecars(
        extension=extension or ".txt",
        folder=folder,
        existing=o.sidecar_existing_of(existing),
        prefix=prefix,
        suffix=suffix,
    )


@dataclass
class _Captioner:
    """The record of each of a few images; sidecars are written on the way."""

    model: Model
    judge: Model | None
    decoding: Decoding
    prompt: str | None
    keep_prompt: bool
    seed: int
    beside: Sidecars | None

    def __call__(self, good: Good) -> list[list[Record]]:
        captions = self.model.caption_batch(
            [image for _, image in good],
            self.decoding,
            prompt=self.prompt,
            seed=self.seed,
            keys=[one.key for one, _ in good],
        )
        return [[self.record(one, image, found)] for (one, image), found in zip(good, captions, strict=True)]

    def record(self, one: Sample, image: Image, found: Caption) -> Record:
        texts = [found, *found.alternatives]
        itm = None if self.judge is None else self.judge.match_batch([image], [c.text for c in texts], head="itm").itm
        scores = [None] * len(texts) if itm is None else [float(s) for s in itm[0]]
        text = self.kept(found.text)
        if self.beside is not None:
            self.beside.write(one, text)
        others = [
            {"text": self.kept(c.text), "score": c.score, **({} if s is None else {"itm": s})}
            for c, s in zip(texts[1:], scores[1:], strict=True)
        ]
        return {
            "schema": "caption/1",
            "key": one.key,
            "text": text,
            "score": found.score,
            "alternatives": others or None,
            "itm": scores[0],
            "model": self.model.name,
            "params": to_record(self.decoding),
            "width": image.width,
            "height": image.height,
        }

    def kept(self, text: str) -> str:
        """With the prompt before it, where that is wanted."""
        if not self.keep_prompt:
            return text
        prompt = (self.model.config.prompt if self.prompt is None else self.prompt).rstrip()
        return f"{prompt} {text}" if prompt else text


def _of_clips(inputs: Sequence[Sample]) -> list[Sample]:
    """The inputs, but frames of a video under the key of the video."""
    from blip.io.video import Frame

    return [replace(i, key=i.key.rpartition("#t=")[0]) if isinstance(i.image.source, Frame) else i for i in inputs]


class _Summary:
    """Of the records of a key the best: by the chance of a match where there is one, else by its score."""

    def __init__(self, inputs: Sequence[Sample]) -> None:
        self.left = Counter(one.key for one in inputs)
        self.best: dict[str, Record] = {}

    def __call__(self, one: Sample, rows: list[Record]) -> list[Record]:
        """The record when all are known, which may be that of a failure; nothing before."""
        (row,) = rows
        self.left[one.key] -= 1
        self.best[one.key] = max(self.best.get(one.key, row), row, key=_quality)
        return [] if self.left[one.key] else [self.best.pop(one.key)]


def _quality(row: Record) -> float:
    if "error" in row:
        return float("-inf")
    return float(row["score"] if row["itm"] is None else row["itm"])
