"""`blip capfilt run`: caption images and score their texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from blip.cli import options as o
from blip.cli.commands import COLUMNS, DECODING, DEVICE, INPUT, OUTPUT, argument, option
from blip.cli.datasets import SourceFlags
from blip.cli.engine_options import EngineFlags
from blip.cli.output import StatusLine, plural
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from blip.engine.work import Counts
    from blip_lite.decoding import Decoding


@dataclass(kw_only=True)
class ModelFlags:
    """Flags of the data, of the two models and of what they do."""

    data: Annotated[
        tuple[str, ...],
        argument("DATA...", help="Tar shards, tables, folders or data sets of images.", complete=o.dataset_names),
    ]
    output: Annotated[Path, option("-o", "--output", metavar="DIR", group=OUTPUT, help="Folder of scores and results.")]
    captioner: Annotated[str, option(help="Model that captions the images.", complete=o.model_names)] = "tiny"
    filter: Annotated[str, option(help="Model that scores the texts.", complete=o.model_names)] = "tiny"
    captions: Annotated[
        int, option(min=0, max=32, help="Synthetic texts per image and prompt; 0 scores web texts.")
    ] = 1
    prompt: Annotated[
        tuple[str, ...],
        option(metavar="TEXT", help="Text that captions continue (repeatable).", default="the captioner's"),
    ] = ()


@dataclass(kw_only=True)
class CaptionFlags:
    """Flags of caption generation."""

    group = DECODING
    beams: Annotated[int | None, option(min=1, max=32, help="Beam search of this width instead of sampling.")] = None
    top_p: Annotated[float, option(min=0.0, max=1.0, help="Probability mass to sample from.")] = 0.9
    top_k: Annotated[int, option(min=0, help="Tokens to sample from, 0 for all.")] = 50
    temperature: Annotated[float, option(min=0.01, help="Temperature of sampling.")] = 1.0
    seed: Annotated[int, option(min=0, help="Random seed; a text depends on this and the image's key.")] = 0
    max_length: Annotated[int, option(min=2, help="Maximum tokens with prompt, start and end.")] = 20
    min_length: Annotated[int | None, option(min=0, help="Minimum tokens, counted like --max-length.", default="5")] = (
        None
    )
    repetition_penalty: Annotated[float | None, option(help="Repetition penalty.", default="1.1; 1.0 with --beams")] = (
        None
    )

    def decoding(self, captions: int) -> Decoding:
        from blip_lite.decoding import make_decoding

        return make_decoding(
            beams=self.beams or 1,
            sample=self.beams is None,
            top_p=self.top_p,
            top_k=self.top_k,
            temperature=self.temperature,
            min_length=self.min_length,
            max_length=self.max_length,
            num_captions=max(captions, 1),
            repetition_penalty=self.repetition_penalty,
        )


@dataclass(kw_only=True)
class ScoringFlags(o.Device):
    """Flags of reading, of the device and of progress."""

    group = INPUT
    human_column: Annotated[
        str | None, option(group=COLUMNS, help="Column that is true for human pairs, which are kept unscored.")
    ] = None
    copy_column: Annotated[
        tuple[str, ...], option(group=COLUMNS, help="Column to repeat in the scores (repeatable).")
    ] = ()
    fetch: Annotated[bool, option(help="Download the images of tables of URLs with img2dataset.")] = False
    runner: Annotated[str, option(metavar="COMMAND", help="Runs img2dataset: uvx, 'pipx run', or its path.")] = "uvx"
    max_megapixels: o.MaxMegapixels = 200.0
    workers: Annotated[int | None, option(min=1, help="Threads that read images.", default="the cores")] = None
    batch_size: Annotated[
        int | None, option(min=1, group=DEVICE, help="Images per batch.", default="16 on a CPU, 64 on a GPU")
    ] = None
    no_progress: o.NoProgress = False


@dataclass(kw_only=True)
class RunFlags(ScoringFlags, EngineFlags, SourceFlags, CaptionFlags, ModelFlags):
    """All flags of `run`; help shows those of the last base first."""


def run(*, flags: RunFlags) -> int:
    """Caption images and score their texts, without decisions.

    Writes one Parquet file per shard to DIR/scores. A second run with the same flags continues where the first ended.
    Images that cannot be read are rows with the reason; the exit code is then 1.
    """
    from blip import capfilt
    from blip.cli.shard_run import failures

    flags.check_engine()
    if flags.max_megapixels <= 0:
        raise UsageError(f"--max-megapixels {flags.max_megapixels:g}; must be more than 0")
    for name in (flags.captioner, flags.filter):
        o.note_default(None if name == o.BUNDLED else name, o.BUNDLED, flags.quiet)
    line = StatusLine(not (flags.no_progress or flags.quiet))
    try:
        summary = capfilt.run(
            flags.data,
            flags.output,
            captioner=flags.captioner,
            filter=flags.filter,
            captions=flags.captions,
            prompts=flags.prompt,
            decoding=flags.decoding(flags.captions) if flags.captions else None,
            seed=flags.seed,
            root=flags.roots,
            image_column=flags.image_column,
            text_column=flags.text_column,
            key_column=flags.key_column,
            human_column=flags.human_column,
            copy_columns=flags.copy_column,
            fetch=flags.fetch,
            runner=flags.runner,
            rows_per_shard=flags.rows_per_shard,
            engine=flags.engine,
            actors=flags.actors or 1,
            ray_address=flags.ray_address,
            max_pixels=int(flags.max_megapixels * 1e6),
            batch_size=flags.batch_size,
            workers=flags.workers,
            progress=line.show,
            device=flags.device,
            dtype=flags.dtype,
            threads=flags.threads,
            offline=flags.offline or None,
        )
    finally:
        line.clear()
    done = f"{plural(summary.shards - len(summary.problems), 'shard')} done ({summary.written:,} by this run)"
    o.note(f"{done}, {_describe(summary.counts)}", flags.quiet)
    for text in failures(summary):
        o.note(text)
    if flags.human_column is not None and not summary.counts.texts["human"]:
        o.note(f"column '{flags.human_column}' is true in no row, so all texts were scored", flags.quiet)
    return 1 if summary.failed or summary.problems else 0


def _describe(counts: Counts) -> str:
    """Return for example "40 images, 201 web and 40 synthetic texts, kept at 0.5: 84% web 85% synthetic, 2 failed"."""
    texts = " and ".join(f"{number:,} {kind}" for kind, number in counts.texts.items())
    kept = f", kept at 0.5: {counts.kept_shares()}" if counts.kept else ""
    failed = f"{sum(counts.errors.values()):,} failed"
    return f"{plural(counts.images, 'image')}, {texts or 'no'} texts{kept}, {failed}"
