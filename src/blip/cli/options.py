"""Flags that several verbs share, and what they stand for."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from blip.cli.commands import COLUMNS, DEVICE, GENERAL, INPUT, OUTPUT, QUIET, SERVER, Spec, argument, option
from blip_lite.errors import UsageError
from blip_lite.terminal import printable

if TYPE_CHECKING:
    from blip.io.samples import Sample
    from blip.torch_backend import TorchBackend
    from blip_lite.model import Model


def model_names() -> list[str]:
    """Return the names of published and imported models, for completion."""
    from blip.checkpoint.catalogue import ENTRIES
    from blip.checkpoint.locate import imported_names

    return [*(entry.name for entry in ENTRIES if "/" not in entry.name), *imported_names()]


def dataset_names() -> list[str]:
    """Return the names of known data sets, for completion."""
    from blip.data.known_datasets import ENTRIES

    return [entry.name for entry in ENTRIES]


Inputs = Annotated[
    tuple[str, ...], argument("[INPUT]...", help="Images, videos, folders, tar shards, tables or URLs; - reads a list.")
]


def model_option(default: str) -> Spec:
    """Return the annotation of -m for verbs that use the bundled model `default`."""
    default = f"BLIP_MODEL, else {default}"
    return option("-m", "--model", help="Model name, file or folder.", default=default, complete=model_names)


ModelName = Annotated[str | None, model_option("tiny")]
AnsweringModelName = Annotated[str | None, model_option("tiny-vqa")]
ModelNames = Annotated[
    tuple[str, ...],
    option(
        "-m", "--model", help="Model name, file or folder (repeatable).", default="tiny, tiny-vqa", complete=model_names
    ),
]
Text = Annotated[tuple[str, ...], option("-t", "--text", metavar="TEXT", help="A text (repeatable).")]
Texts = Annotated[Path | None, option(metavar="FILE", help="Texts from a file, one per line.")]
Host = Annotated[str, option(group=SERVER, help="Address to listen on; 0.0.0.0 for all.")]
Port = Annotated[int, option(min=0, max=65535, group=SERVER, help="Port; 0 for any free one.")]
MaxServedMegapixels = Annotated[float, option(min=0.001, group=SERVER, help="Refuse images of more megapixels.")]
Recursive = Annotated[
    bool, option("--recursive/--no-recursive", group=INPUT, help="Do not search folders recursively.")
]
Hidden = Annotated[bool, option(group=INPUT, help="Include hidden files.")]
Glob = Annotated[
    tuple[str, ...],
    option("-g", "--glob", metavar="PATTERN", group=INPUT, help="Only paths that match; ! negates (repeatable)."),
]
Limit = Annotated[int | None, option(min=1, group=INPUT, help="Maximum number of inputs.")]
Root = Annotated[Path | None, option(metavar="DIR", group=INPUT, help="Folder that paths in tables are relative to.")]
UrlTimeout = Annotated[float, option(min=0.1, group=INPUT, help="Timeout for a URL in seconds.")]
MaxMegapixels = Annotated[float, option(min=0.0, group=INPUT, help="Refuse images of more megapixels.")]
Workers = Annotated[
    int | None, option(min=1, group=INPUT, help="Threads that read images.", default="the cores, at most 4")
]
ImageColumn = Annotated[
    str | None, option(group=COLUMNS, help="Column of the image.", default="image, image_path, file_name, ...")
]
TextColumn = Annotated[
    str | None, option(group=COLUMNS, help="Column of the text or texts.", default="caption, captions, ...")
]
KeyColumn = Annotated[str | None, option(group=COLUMNS, help="Column of the key.")]
SkipBad = Annotated[bool, option(group=COLUMNS, help="Report invalid rows and skip them.")]
AsJson = Annotated[bool, option("--json", group=OUTPUT, help="Same as --format jsonl.")]
Json = Annotated[bool, option("--json", group=OUTPUT, help="Print one JSON record per line.")]
Overwrite = Annotated[bool, option(group=OUTPUT, help="Replace existing output.")]
SkipExisting = Annotated[
    bool | None,
    option("--skip-existing/--no-skip-existing", group=OUTPUT, help="Keep existing output instead of failing."),
]
Threads = Annotated[int | None, option(envvar="BLIP_THREADS", min=1, group=DEVICE, help="Number of CPU threads.")]
ImageSize = Annotated[int | None, option(min=16, group=DEVICE, help="Image size in pixels.", default="the model's")]
BackendName = Annotated[
    Literal["auto", "torch", "onnx"],
    option("--backend", group=DEVICE, help="auto, torch or onnx (models with exported graphs)."),
]
BatchSize = Annotated[
    int | None, option(min=1, group=DEVICE, help="Images per batch.", default="8 to 32 on a CPU, 64 on a GPU")
]
Offline = Annotated[bool, option(group=GENERAL, help="Never use the network.")]
OfflineOrOnline = Annotated[
    bool | None, option("--offline/--online", group=GENERAL, help="Never use the network, or ignore BLIP_OFFLINE.")
]
NoProgress = Annotated[bool, option(group=GENERAL, help="Hide the progress line.")]
Quiet = Annotated[bool, option("-q", "--quiet", group=GENERAL, help="Hide notes and the summary.")]

DAY_SECONDS = 86_400
BUNDLED, ANSWERER = "tiny", "tiny-vqa"
BETTER = {BUNDLED: ("caption-base", "0.9 GB"), ANSWERER: ("vqa-base", "1.4 GB")}
ExistingPolicy = Literal["error", "skip", "overwrite"]


def model_name(name: str | None, default: str = BUNDLED) -> str:
    """Return the model that -m names, else BLIP_MODEL, else `default`."""
    return name or os.environ.get("BLIP_MODEL") or default


def note_default(name: str | None, default: str, quiet: bool) -> None:
    """Note on a terminal, once a day, that a bundled model is used, if the user has named none."""
    if not (name or os.environ.get("BLIP_MODEL") or quiet) and sys.stderr.isatty() and _is_new_today(default):
        better, size = BETTER[default]
        text = f"published checkpoints are far better: -m {better} ({size}, downloaded once)"
        note(f"using the bundled model '{default}'; {text}")


def _is_new_today(name: str) -> bool:
    """Whether a note has not been shown in the last 24 hours; it is recorded as shown in the folder of user data."""
    from blip.io.fetch import home_dir

    try:
        mark = home_dir() / "noted" / name
        if mark.exists() and time.time() - mark.stat().st_mtime < DAY_SECONDS:
            return False
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:  # a read-only home
        return False
    return True


def default_workers() -> int:
    return min(4, os.cpu_count() or 1)


def parse_existing(skip_existing: bool | None, overwrite: bool) -> ExistingPolicy:
    """Return what to do with an output file that exists."""
    if skip_existing and overwrite:
        raise UsageError("--skip-existing with --overwrite; must be one of the two")
    return "overwrite" if overwrite else "skip" if skip_existing else "error"


def file_or_stdout(output: Path | None) -> Path | None:
    """Return the file of -o; None for standard output, which is also called `-`."""
    return None if output is None or str(output) == "-" else output


def note(text: str, quiet: bool | None = None) -> None:
    """Print a line on standard error, safe on a terminal, unless `quiet`, by default the command's --quiet."""
    if quiet is None:
        context = click.get_current_context(silent=True)
        quiet = context is not None and context.meta.get(QUIET, False)
    if not quiet:
        print(printable(text), file=sys.stderr)


@dataclass(kw_only=True)
class Device:
    """Flags of every verb that runs models."""

    group = DEVICE
    device: Annotated[str, option(envvar="BLIP_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    dtype: Annotated[str, option(envvar="BLIP_DTYPE", help="auto, fp32, bf16, fp16, or int8 (CPU).")] = "auto"
    threads: Threads = None
    offline: Annotated[bool, option(group=GENERAL, help="Never use the network.")] = False
    quiet: Quiet = False

    def load_torch(self, name: str, image_size: int | None = None) -> Model[TorchBackend]:
        """Load a model that runs on torch."""
        from blip import api

        return api.load(
            name,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            image_size=image_size,
            offline=self.offline or None,
        )


@dataclass(kw_only=True)
class Machine(Device):
    """Flags of every verb that runs one model on images."""

    image_size: ImageSize = None

    def open_model(
        self,
        name: str,
        *,
        needs: Sequence[str],
        backend: Literal["auto", "torch", "onnx"],
        image_size: int | None = None,
        compile: bool = False,
    ) -> Model:
        """Load a model for these calls."""
        from blip import api

        return api.open_model(
            name,
            backend=backend,
            needs=needs,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            image_size=image_size,
            compile=compile,
            offline=self.offline or None,
        )


@dataclass(kw_only=True)
class Reading(Machine):
    """Flags of every verb that reads images one after the other."""

    group = INPUT
    recursive: Recursive = True
    hidden: Hidden = False
    glob: Glob = ()
    ext: Annotated[
        str | None, option(metavar="LIST", help="File extensions to read in folders, e.g. jpg,mp4.", default="images")
    ] = None
    from_file: Annotated[Path | None, option(metavar="FILE", help="Read inputs from a file, one per line.")] = None
    null: Annotated[bool, option("-0", help="Inputs on standard input are separated by NUL.")] = False
    limit: Limit = None
    shard: Annotated[str | None, option(metavar="I/N", help="Every N-th input, starting at the I-th (from 0).")] = None
    frames: Annotated[int | None, option(min=1, help="Frames per video, evenly spaced.", default="8")] = None
    fps: Annotated[
        float | None, option(min=0.001, max=1000, help="Frames per second to sample (instead of --frames).")
    ] = None
    root: Root = None
    image_column: ImageColumn = None
    url_timeout: UrlTimeout = 20.0
    max_megapixels: MaxMegapixels = 200.0
    workers: Workers = None
    strict: Annotated[bool, option(group=GENERAL, help="Stop at the first failed input.")] = False
    dry_run: Annotated[bool, option(group=GENERAL, help="List inputs, model, device and outputs, and exit.")] = False
    no_progress: NoProgress = False

    def inputs(self, named: Sequence[str]) -> list[Sample]:
        """Return the inputs that the arguments name."""
        from blip.io.columns import Columns
        from blip.io.inputs import find_inputs
        from blip.io.video import frame_inputs

        if self.frames is not None and self.fps is not None:
            raise UsageError("--frames with --fps; must be one of the two")
        return find_inputs(
            named,
            recursive=self.recursive,
            hidden=self.hidden,
            globs=self.glob,
            from_file=self.from_file,
            limit=self.limit,
            shard=_shard(self.shard),
            null=self.null,
            columns=Columns(roots=() if self.root is None else (self.root,), image=self.image_column),
            offline=self.offline,
            url_timeout=self.url_timeout,
            exts=tuple(e for e in (self.ext or "").split(",") if e),
            video=partial(frame_inputs, frames=self.frames or 8, fps=self.fps),
            stdin=getattr(sys.stdin, "buffer", None),
        )


@dataclass(kw_only=True)
class Run(Reading):
    """Flags of every verb that writes a record for each image."""

    group = OUTPUT
    output: Annotated[
        str | None,
        option(
            "-o", "--output", metavar="FILE", help="File, in the format of its ending; - is stdout.", complete=tuple
        ),
    ] = None
    format: Annotated[
        str | None,
        option(help="text, jsonl, json, csv, tsv, parquet or coco.", default="text"),
    ] = None
    json: AsJson = False
    skip_existing: SkipExisting = None
    overwrite: Overwrite = False
    resume: Annotated[bool, option(help="Continue the output of a run that ended early.")] = False
    batch_size: BatchSize = None
    backend: BackendName = "auto"
    compile: Annotated[bool, option(group=DEVICE, help="Compile the model with torch.compile.")] = False

    @property
    def existing(self) -> ExistingPolicy:
        """Policy for an output file that exists."""
        return parse_existing(self.skip_existing, self.overwrite)

    @property
    def output_file(self) -> Path | None:
        """The file to write; None for standard output, `-`."""
        return None if self.output is None else file_or_stdout(Path(self.output))

    @property
    def record_format(self) -> str | None:
        """The requested format, None for that of the output's extension."""
        return "jsonl" if self.json else self.format

    def load(self, name: str | None, default: str = BUNDLED, *, needs: Sequence[str]) -> Model:
        """Load the model for these calls; a bundled default is noted."""
        note_default(name, default, self.quiet)
        return self.open_model(
            model_name(name, default),
            needs=needs,
            backend=self.backend,
            image_size=self.image_size,
            compile=self.compile,
        )

    def default_batch_size(self, model: Model) -> int:
        """Return --batch-size, else the default of the model's device."""
        return self.batch_size or model.default_batch_size


@dataclass(kw_only=True)
class Columns:
    """Flags of every verb that reads rows with columns."""

    group = COLUMNS
    root: Root = None
    image_column: ImageColumn = None
    text_column: TextColumn = None
    key_column: KeyColumn = None
    question_column: Annotated[str | None, option(help="Column of the question.")] = None
    answer_column: Annotated[str | None, option(help="Column of the answer or answers.")] = None
    sentence_column: Annotated[str | None, option(help="Column of the sentence about two images.")] = None
    label_column: Annotated[str | None, option(help="Column of true or false.")] = None
    skip_bad: SkipBad = False

    def reading(self) -> dict[str, Any]:
        """Return the given fields of `blip.data.sources.Reading`."""
        given = {
            "root": None if self.root is None else str(self.root),
            "image": self.image_column,
            "text": self.text_column,
            "key": self.key_column,
            "question": self.question_column,
            "answer": self.answer_column,
            "sentence": self.sentence_column,
            "label": self.label_column,
            "skip_bad": self.skip_bad or None,
        }
        return {name: value for name, value in given.items() if value is not None}


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise UsageError(f"--shard {text}; must be I/N with I from 0 to N-1")
    return int(first), int(count)
