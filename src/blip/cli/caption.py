"""`blip caption`: describe images, one record per image."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blip.cli import options as o

if TYPE_CHECKING:
    from blip.api import Model
    from blip.io.inputs import Input
    from blip.io.sidecars import Sidecars
    from blip.model.decoding import Decoding

Record = dict[str, Any]


def caption(
    inputs: o.Inputs = None,
    model: o.ModelName = None,
    beams: Annotated[int, typer.Option(min=1, max=32, help="Beam width; 1 is greedy.")] = 3,
    sample: Annotated[bool, typer.Option("--sample", help="Nucleus sampling instead of beams.")] = False,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="With --sample.")] = 0.9,
    top_k: Annotated[int, typer.Option(min=0, help="With --sample; 0 = off.")] = 50,
    temperature: Annotated[float, typer.Option(min=0.01, help="With --sample.")] = 1.0,
    max_length: Annotated[int, typer.Option(min=2, help="All ids: prompt, start and end.")] = 20,
    min_length: Annotated[int, typer.Option(min=0, help="All ids.")] = 5,
    prompt: Annotated[str | None, typer.Option(help="Text the caption goes on from; default the model's.")] = None,
    keep_prompt: Annotated[bool, typer.Option("--keep-prompt", help="Leave the prompt in the caption.")] = False,
    num_captions: Annotated[int, typer.Option("-n", "--num-captions", min=1, max=32, help="Captions an image.")] = 1,
    repetition_penalty: Annotated[float | None, typer.Option(help="Default 1.0; 1.1 with --sample.")] = None,
    itm: Annotated[str | None, typer.Option(help="Model that adds a match score per caption.")] = None,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    sidecar: Annotated[str | None, typer.Option(help="Write a text beside each image: .txt or .xmp.")] = None,
    sidecar_dir: Annotated[Path | None, typer.Option(help="Folder that mirrors the tree instead.")] = None,
    xmp: Annotated[bool, typer.Option("--xmp", help="Same as --sidecar .xmp.")] = False,
    prefix: Annotated[str, typer.Option(help="Before each sidecar text.")] = "",
    suffix: Annotated[str, typer.Option(help="After each sidecar text.")] = "",
    output: o.Output = None,
    format: o.Format = None,
    json: o.AsJson = False,
    existing: o.Existing = None,
    resume: o.Resume = False,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    threads: o.Threads = None,
    batch_size: o.BatchSize = None,
    image_size: o.ImageSize = None,
    offline: o.Offline = False,
    recursive: o.Recursive = True,
    hidden: o.Hidden = False,
    glob: o.Glob = None,
    from_file: o.FromFile = None,
    limit: o.Limit = None,
    shard: o.Shard = None,
    null: o.Null = False,
    root: o.Root = None,
    strict: o.Strict = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Describe images. Example: blip caption holiday/ --sidecar .txt"""
    from blip.errors import UsageError
    from blip.io.records import must_write

    if sample and beams != 3:
        raise UsageError("--beams with --sample; must be one of the two")
    found = o.list_inputs(
        inputs, recursive=recursive, hidden=hidden, globs=glob, from_file=from_file, limit=limit, shard=shard,
        null=null, root=root, offline=offline,
    )  # fmt: skip
    form = "jsonl" if json else format
    beside = _sidecars(sidecar or (".xmp" if xmp else None), sidecar_dir, existing, prefix, suffix)
    if not must_write(output, existing="overwrite" if beside else o.existing_of(existing), resume=resume):
        o.note(f"{output} exists, nothing to do", quiet)
        return 0
    wanted = [one for one in found if beside is None or beside.wanted(one)]
    if not wanted:
        o.note(f"{len(found)} inputs, all have their texts", quiet)
        return 0
    run = _Run(
        beside=beside, keep_prompt=prompt if keep_prompt else None, prompt=prompt, seed=seed, strict=strict, quiet=quiet
    )
    loaded = o.load_model(
        model, device=device, dtype=dtype, threads=threads, image_size=image_size, offline=offline, quiet=quiet
    )
    loaded.require("caption")
    judge = None if itm is None else o.load_model(itm, device=device, dtype=dtype, offline=offline, quiet=quiet)
    from blip.api import decoding_of

    decoding = decoding_of(
        beams=beams, sample=sample, top_p=top_p, top_k=top_k, temperature=temperature, min_length=min_length,
        max_length=max_length, num_captions=num_captions, repetition_penalty=repetition_penalty,
    )  # fmt: skip
    show = beside is None or output is not None or form is not None
    return run.all(loaded, judge, decoding, wanted, len(found), output, form, existing, resume, batch_size, show)


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


class _Run:
    """One run over the inputs: captions, records, sidecars, counts."""

    def __init__(
        self,
        *,
        beside: Sidecars | None,
        keep_prompt: str | None,
        prompt: str | None,
        seed: int,
        strict: bool,
        quiet: bool,
    ) -> None:
        self.beside, self.keep_prompt, self.prompt = beside, keep_prompt, prompt
        self.seed, self.strict, self.quiet = seed, strict, quiet
        self.failed = 0

    def all(
        self,
        model: Model,
        judge: Model | None,
        decoding: Decoding,
        inputs: list[Input],
        listed: int,
        output: Path | None,
        form: str | None,
        existing: str | None,
        resume: bool,
        batch_size: int | None,
        show: bool,
    ) -> int:
        from contextlib import nullcontext

        from blip.api import CPU_BATCH, GPU_BATCH
        from blip.io.records import open_records

        start = time.perf_counter()
        size = batch_size or (CPU_BATCH if model.device.type == "cpu" else GPU_BATCH)
        writer = (
            open_records(
                output, schema="caption/1", stream=sys.stdout, format=form, resume=resume, single=len(inputs) == 1,
                existing=existing or "error", order=[one.key for one in inputs],  # type: ignore[arg-type]
            )
            if show
            else nullcontext()
        )  # fmt: skip
        with writer as records:
            left = [one for one in inputs if records is None or one.key not in records.done]
            for batch in o.batches(left, size):
                rows = list(self.records(model, judge, decoding, batch))
                if records is not None:
                    records.write(rows)
                if self.strict and self.failed:
                    break
        seconds = time.perf_counter() - start
        done = len(left) - self.failed
        rate = done / seconds if seconds else 0.0
        skipped = f", {listed - len(inputs)} skipped" if listed > len(inputs) else ""
        o.note(
            f"{listed} inputs, {done} done{skipped}, {self.failed} failed, {seconds:.1f} s ({rate:.1f} img/s)",
            self.quiet,
        )
        return 1 if self.failed else 0

    def records(self, model: Model, judge: Model | None, decoding: Decoding, batch: list[Input]) -> Iterator[Record]:
        """One record per input, in order; sidecars are written on the way."""
        from blip.errors import UnreadableImage
        from blip.io.records import error_record
        from blip.results import Caption

        images: list[Any] = []
        for one in batch:
            try:
                images.append(one.read())
            except UnreadableImage as error:
                images.append(error)
        good = [(one, image) for one, image in zip(batch, images, strict=True) if not isinstance(image, Exception)]
        captions = model.caption_iter(
            (image for _, image in good), decoding, prompt=self.prompt, seed=self.seed,
            batch_size=len(batch), keys=[one.key for one, _ in good],
        )  # fmt: skip
        for one, image in zip(batch, images, strict=True):
            if isinstance(image, UnreadableImage):
                self.failed += 1
                o.note(str(image))
                yield error_record("caption/1", one.key, image)
                continue
            found = next(captions)
            assert isinstance(found, Caption), "images were read before"
            score = None if judge is None else float(judge.match(image, found.text, head="itm").itm.item())  # type: ignore[union-attr]
            text = (self.keep_prompt or "") + found.text
            if self.beside is not None:
                self.beside.write(one, text)
            yield {
                "schema": "caption/1", "key": one.key, "text": text, "score": found.score,
                "alternatives": [{"text": c.text, "score": c.score} for c in found.alternatives] or None,
                "itm": score, "model": model.name, "params": params(decoding),
                "width": image.width, "height": image.height,
            }  # fmt: skip


def params(decoding: Decoding) -> Record:
    """The decoding's settings as a record shows them."""
    from blip.model.decoding import Beam, Nucleus

    lengths = {"min_length": decoding.min_length, "max_length": decoding.max_length}
    if isinstance(decoding, Nucleus):
        return {"top_p": decoding.top_p, "top_k": decoding.top_k, "temperature": decoding.temperature, **lengths}
    return {"beams": decoding.num_beams if isinstance(decoding, Beam) else 1, **lengths}
