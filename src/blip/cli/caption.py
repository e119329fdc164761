"""`blip caption`: describe images, one record per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from blip.cli import options as o
from blip.cli.batch_run import BatchRun
from blip.cli.batches import Decoded, DecodedBatch, Record
from blip.cli.commands import DECODING, option
from blip.cli.engine_options import ShardRun
from blip.cli.output import plural
from blip.cli.settings import configurable
from blip_lite.errors import BadRecord, UsageError

if TYPE_CHECKING:
    from blip.io.samples import Sample
    from blip.io.sidecars import Sidecars
    from blip_lite.decoding import Decoding
    from blip_lite.model import Model
    from blip_lite.results import Caption


@dataclass(kw_only=True)
class DecodingFlags:
    """Flags of caption generation."""

    group = DECODING

    beams: Annotated[int | None, option(min=1, max=32, help="Beam width; 1 is greedy.", default="3")] = None
    sample: Annotated[bool, option(help="Nucleus sampling instead of beam search.")] = False
    top_p: Annotated[float, option(min=0.0, max=1.0, help="Probability mass to sample from (with --sample).")] = 0.9
    top_k: Annotated[int, option(min=0, help="Tokens to sample from, 0 for all (with --sample).")] = 50
    temperature: Annotated[float, option(min=0.01, help="Temperature (with --sample).")] = 1.0
    seed: Annotated[int, option(help="Random seed for sampling.")] = 0
    max_length: Annotated[
        int | None, option(min=2, help="Maximum tokens with prompt, start and end.", default="20")
    ] = None
    max_new_tokens: Annotated[int | None, option(min=1, help="Maximum new tokens (instead of --max-length).")] = None
    min_length: Annotated[int | None, option(min=0, help="Minimum tokens, counted like --max-length.", default="5")] = (
        None
    )
    repetition_penalty: Annotated[
        float | None, option(help="Repetition penalty.", default="1.0; 1.1 with --sample")
    ] = None

    def check(self) -> None:
        """Raise UsageError for flags that exclude each other."""
        if self.sample and self.beams is not None:
            raise UsageError("--beams with --sample; must be one of the two")
        if self.max_new_tokens is not None and self.max_length is not None:
            raise UsageError("--max-new-tokens with --max-length; must be one of the two")

    def decoding(self, model: Model, prompt: str | None, num_captions: int) -> Decoding:
        """Return the decoding; `max_new_tokens` counts after the prompt and includes the end token."""
        from blip_lite.decoding import make_decoding

        max_length = self.max_length or 20
        if self.max_new_tokens is not None:
            prompt_ids = model.tokenizer.prompt_ids(model.config.prompt if prompt is None else prompt)
            max_length = len(prompt_ids) + self.max_new_tokens
        return make_decoding(
            beams=self.beams or 3,
            sample=self.sample,
            top_p=self.top_p,
            top_k=self.top_k,
            temperature=self.temperature,
            min_length=self.min_length,
            max_length=max_length,
            num_captions=num_captions,
            repetition_penalty=self.repetition_penalty,
        )


@dataclass(kw_only=True)
class SidecarFlags:
    """Flags of the text files beside images."""

    group = "Sidecars"

    sidecar: Annotated[
        str | None, option(metavar="EXT", help="Write captions beside their images: .txt, .caption or .xmp.")
    ] = None
    sidecar_dir: Annotated[
        Path | None, option(metavar="DIR", help="Write these files to a folder that mirrors the tree.")
    ] = None
    xmp: Annotated[bool, option(help="Same as --sidecar .xmp.")] = False
    prefix: Annotated[str, option(metavar="TEXT", help="Text before each caption.")] = ""
    suffix: Annotated[str, option(metavar="TEXT", help="Text after each caption.")] = ""
    append: Annotated[bool, option(help="Add to existing files (default: skip their images).")] = False

    def sidecars(self, run: o.Run) -> Sidecars | None:
        """Return where captions are written; by default, images with an existing file are skipped."""
        from blip.io.sidecars import Sidecars, sidecar_ending

        if self.xmp and self.sidecar is not None:
            raise UsageError("--xmp with --sidecar; must be one of the two")
        extension = ".xmp" if self.xmp else self.sidecar and sidecar_ending(self.sidecar, "--sidecar")
        if extension is None and self.sidecar_dir is None:
            if self.append:
                raise UsageError("--append; must be used with --sidecar, --sidecar-dir or --xmp")
            return None
        if self.append and run.existing != "error":
            raise UsageError("--append with --skip-existing or --overwrite; must be one of them")
        existing = "skip" if run.skip_existing is None and not run.overwrite else run.existing
        return Sidecars(
            extension=extension or ".txt",
            folder=self.sidecar_dir,
            existing="append" if self.append else existing,
            prefix=self.prefix,
            suffix=self.suffix,
        )


@dataclass(kw_only=True)
class CaptionFlags:
    """Flags of the models and of what is written about an image."""

    model: o.ModelName = None
    num_captions: Annotated[int, option("-n", "--num-captions", min=1, max=32, help="Captions per image.")] = 1
    prompt: Annotated[
        str | None, option(metavar="TEXT", help="Text that the caption continues.", default="the model's")
    ] = None
    keep_prompt: Annotated[bool, option(help="Include the prompt in the caption.")] = False
    itm_model: Annotated[
        str | None, option(help="Model that adds a match score to each caption.", complete=o.model_names)
    ] = None


@configurable
def caption(
    *,
    inputs: o.Inputs,
    flags: CaptionFlags,
    summary: Annotated[bool, option(help="One caption per video, that of its best-matching frame.")] = False,
    decode: DecodingFlags,
    beside: SidecarFlags,
    run: ShardRun,
) -> int:
    """Describe images.

    Example: blip caption holiday/ --sidecar .txt
    """
    decode.check()
    sidecars = beside.sidecars(run)
    if run.output_folder is not None:
        if summary or sidecars:
            raise UsageError(f"--summary or sidecars with -o {run.output}; must be used with a file as output")
        return _caption_shards(Captioner(flags, decode, run), inputs, run)
    if summary and (sidecars or run.shard):
        raise UsageError("--summary with sidecars or --shard; must be without them, name other videos in other runs")
    listed = run.inputs(inputs)
    to_stdout = sidecars is None or run.output is not None or run.record_format is not None
    # --skip-existing and --overwrite are about sidecars then
    records = replace(run, skip_existing=None, overwrite=False) if sidecars else run
    batch_run = BatchRun(schema="caption/1", flags=records, show=to_stdout)
    paths = {} if sidecars is None else sidecars.paths(listed)
    samples = [sample for sample in listed if sidecars is None or sidecars.must_write(paths[sample.key])]
    if not batch_run.is_needed(samples, o.model_name(flags.model)):
        return 0
    if not samples:
        o.note(f"{plural(len(listed), 'input')}, all have their texts", run.quiet)
        return 0
    captioner = Captioner(flags, decode, run, summary=summary, sidecars=sidecars, paths=paths)
    models = captioner.load()
    if summary:
        samples = _by_video(samples)
        batch_run.select = _Summary(samples)
    return batch_run.run(samples, models, captioner, listed=len(listed))


def _caption_shards(captioner: Captioner, inputs: Sequence[str], run: ShardRun) -> int:
    from blip.cli.shard_run import model_settings, run_shards

    flags = captioner.flags
    settings = {
        "model": model_settings(o.model_name(flags.model), run),
        "itm_model": None if flags.itm_model is None else model_settings(flags.itm_model, run),
        "num_captions": flags.num_captions,
        "prompt": flags.prompt,
        "keep_prompt": flags.keep_prompt,
        "decoding": vars(captioner.decode),
    }
    return run_shards(captioner, inputs, run, settings)


@dataclass
class Captioner:
    """Makes the record of each image, and writes its sidecar."""

    flags: CaptionFlags
    decode: DecodingFlags
    run: o.Run
    summary: bool = False  # captions are scored by the model itself if it can and no other is named
    sidecars: Sidecars | None = None
    paths: Mapping[str, Path] = field(default_factory=dict)  # of sidecars, by key
    schema = "caption/1"

    def load(self, threads: int | None = None) -> Sequence[Model]:
        """Open the captioner and, if there is one, the model that scores captions."""
        flags, run = self.flags, replace(self.run, threads=self.run.threads or threads)
        self.model = run.load(flags.model, needs=["sample" if self.decode.sample else "caption"])
        self.judge: Model | None = None
        if flags.itm_model is not None:
            self.judge = replace(run, image_size=None, compile=False).load(flags.itm_model, needs=["match"])
        elif self.summary and "match" in self.model.capabilities:
            self.judge = self.model
        self.decoding = self.decode.decoding(self.model, flags.prompt, flags.num_captions)
        return [self.model] if self.judge is None else [self.model, self.judge]

    def __call__(self, batch: DecodedBatch) -> list[list[Record]]:
        images, keys = [decoded.image for decoded in batch], [decoded.sample.key for decoded in batch]
        captions = self.model.caption_batch(
            images, self.decoding, prompt=self.flags.prompt, seed=self.decode.seed, keys=keys
        )
        return [[self._record(decoded, caption)] for decoded, caption in zip(batch, captions, strict=True)]

    def _record(self, decoded: Decoded, caption: Caption) -> Record:
        from blip.io.records import error_record
        from blip_lite.decoding import to_record

        sample = decoded.sample
        candidates = [caption, *caption.alternatives]
        texts = [self._text(candidate.text) for candidate in candidates]
        scores: list[float | None] = [None] * len(candidates)
        if self.judge is not None:
            itm = self.judge.match_batch([decoded.images[-1]], [c.text for c in candidates], head="itm").itm
            scores = scores if itm is None else [float(score) for score in itm[0]]
        if self.sidecars is not None:
            try:
                self.sidecars.write(self.paths[sample.key], *texts)
            except BadRecord as error:  # an existing file that is not XMP
                o.note(str(error))
                return error_record("caption/1", sample.key, error)
        alternatives = [
            {"text": text, "score": c.score, **({} if itm is None else {"itm": itm})}
            for text, c, itm in zip(texts[1:], candidates[1:], scores[1:], strict=True)
        ]
        return {
            "schema": "caption/1",
            "key": sample.key,
            "text": texts[0],
            "score": caption.score,
            "alternatives": alternatives or None,
            "itm": scores[0],
            "model": self.model.name,
            "params": to_record(self.decoding),
            "width": decoded.size[0],
            "height": decoded.size[1],
        }

    def _text(self, text: str) -> str:
        """Return the caption, after its prompt with --keep-prompt."""
        if not self.flags.keep_prompt:
            return text
        prompt = (self.model.config.prompt if self.flags.prompt is None else self.flags.prompt).rstrip()
        return f"{prompt} {text}" if prompt else text


def _by_video(samples: Sequence[Sample]) -> list[Sample]:
    """Give frames the key of their video."""
    from blip.io.video import Frame

    return [replace(s, key=s.key.rpartition("#t=")[0]) if isinstance(s.image.source, Frame) else s for s in samples]


class _Summary:
    """Selects the best record of each key: by its match score or, without one, by its score."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.remaining = Counter(sample.key for sample in samples)
        self.best: dict[str, Record] = {}

    def __call__(self, sample: Sample, rows: list[Record]) -> list[Record]:
        """Return the best record after the last of a key, nothing before; the best may be that of a failure."""
        (row,) = rows
        key = sample.key
        self.remaining[key] -= 1
        self.best[key] = max(self.best.get(key, row), row, key=_quality)
        return [] if self.remaining[key] else [self.best.pop(key)]


def _quality(row: Record) -> float:
    if "error" in row:
        return float("-inf")
    return float(row["score"] if row["itm"] is None else row["itm"])
