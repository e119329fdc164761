"""Flags that several verbs share, and what they mean in one place."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

if TYPE_CHECKING:
    from blip.io.samples import Sample
    from blip.torch_backend import TorchBackend
    from blip_lite.model import Model

Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Files, videos, folders, tar shards, manifests, URLs, or '-' for a list on standard input."),
]
ModelName = Annotated[
    str | None, typer.Option("-m", "--model", help="Name, file or folder; default BLIP_MODEL, else 'tiny'.")
]
Device = Annotated[str, typer.Option(envvar="BLIP_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")]
DType = Annotated[str, typer.Option(envvar="BLIP_DTYPE", help="auto, fp32, bf16 or fp16.")]
Threads = Annotated[int | None, typer.Option(envvar="BLIP_THREADS", min=1, help="Threads of the CPU.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images at once; default 8 on a CPU, 64 on a GPU.")]
ImageSize = Annotated[int | None, typer.Option(min=16, help="Pixels; default the model's.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that read images; default 4 or the cores.")]
MaxMegapixels = Annotated[float, typer.Option(min=0.0, help="Larger images are refused.")]
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List inputs, model, device and outputs; do nothing.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress line.")]
Seed = Annotated[int, typer.Option(help="Of sampling.")]
Ext = Annotated[
    str | None, typer.Option(help="Extensions looked for in folders: jpg,mp4,...; without it all of images, no videos.")
]
UrlTimeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a URL.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a socket.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write; its extension is the format.")]
Format = Annotated[str | None, typer.Option(help="text, jsonl, csv, tsv, parquet; coco for captions.")]
AsJson = Annotated[bool, typer.Option("--json", help="Same as --format jsonl.")]
Existing = Annotated[str | None, typer.Option(help="error, skip, overwrite; sidecars also append.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a jsonl file.")]
Recursive = Annotated[bool, typer.Option("--recursive/--no-recursive", help="Go into folders.")]
Hidden = Annotated[bool, typer.Option("--hidden", help="Hidden files too.")]
Glob = Annotated[list[str] | None, typer.Option("-g", "--glob", help="Only paths that match; '!' negates.")]
FromFile = Annotated[Path | None, typer.Option(help="A list of inputs, one a line.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many inputs.")]
Shard = Annotated[str | None, typer.Option(help="I/N: every N-th input from the I-th on.")]
Frames = Annotated[int | None, typer.Option(min=1, help="Frames of a video, evenly spread; 8 if not given.")]
Fps = Annotated[float | None, typer.Option(min=0.001, max=1000, help="Frames of each second of a video, instead.")]
Null = Annotated[bool, typer.Option("-0", help="The list on standard input is NUL separated.")]
Root = Annotated[Path | None, typer.Option(help="Folder that a manifest's paths are relative to.")]
ImageColumn = Annotated[str, typer.Option(help="Column of the image's path.")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the text or texts; default caption, captions, ...")]
KeyColumn = Annotated[str | None, typer.Option(help="Column of the key.")]
QuestionColumn = Annotated[str | None, typer.Option(help="Column of the question.")]
AnswerColumn = Annotated[str | None, typer.Option(help="Column of the answer or answers.")]
SentenceColumn = Annotated[str | None, typer.Option(help="Column of the sentence about two images.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of true or false.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="List broken rows and go on without them.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No notes, no summary.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks.")]
Strict = Annotated[bool, typer.Option("--strict", help="The first failed input ends the run.")]

BUNDLED, ANSWERER = "tiny", "tiny-vqa"
BETTER = {BUNDLED: ("caption-base", "0.9 GB"), ANSWERER: ("vqa-base", "1.4 GB")}


STOPPED = {"interrupted": 130, "terminated": 143}  # exit codes


def model_name(name: str | None, default: str = BUNDLED) -> str:
    """The model that `-m` or its absence means."""
    return name or os.environ.get("BLIP_MODEL") or default


def notice(name: str | None, default: str, quiet: bool) -> None:
    """Says in one line that nobody has named a model and a bundled one is used."""
    if not (name or os.environ.get("BLIP_MODEL")):
        better, size = BETTER[default]
        text = f"published checkpoints are far better: -m {better} ({size}, downloaded once)"
        note(f"using the bundled model '{default}'; {text}", quiet)


def default_workers() -> int:
    return min(4, os.cpu_count() or 1)


def existing_of(value: str | None) -> Literal["error", "skip", "overwrite"]:
    """What to do with an output file that exists."""
    from blip_lite.errors import UsageError

    if value is None or value == "error":
        return "error"
    if value == "skip":
        return "skip"
    if value == "overwrite":
        return "overwrite"
    raise UsageError(f"--existing {value}; must be error, skip or overwrite")


def sidecar_existing_of(value: str | None) -> Literal["error", "skip", "overwrite", "append"]:
    """What to do with a sidecar that exists."""
    return "append" if value == "append" else "skip" if value is None else existing_of(value)


def note(text: str, quiet: bool = False) -> None:
    """One line on standard error."""
    if not quiet:
        print(text, file=sys.stderr)


@dataclass(kw_only=True)
class Machine:
    """The flags of every verb that runs a model. A verb has them as one argument, `flat` spells them out for users."""

    device: Device = "auto"
    dtype: DType = "auto"
    threads: Threads = None
    image_size: ImageSize = None
    offline: Offline = False
    quiet: Quiet = False
    debug: Debug = False


@dataclass(kw_only=True)
class Reading(Machine):
    """Those of every verb that looks at images one after the other."""

    workers: Workers = None
    max_megapixels: MaxMegapixels = 200.0
    recursive: Recursive = True
    hidden: Hidden = False
    glob: Glob = None
    ext: Ext = None
    from_file: FromFile = None
    limit: Limit = None
    shard: Shard = None
    frames: Frames = None
    fps: Fps = None
    null: Null = False
    root: Root = None
    url_timeout: UrlTimeout = 20.0
    strict: Strict = False
    dry_run: DryRun = False
    no_progress: NoProgress = False

    def inputs(self, named: list[str] | None) -> list[Sample]:
        """All inputs that the arguments name."""
        from blip.io.inputs import find_inputs
        from blip.io.readers import Columns
        from blip.io.video import frame_inputs
        from blip_lite.errors import UsageError

        if self.frames is not None and self.fps is not None:
            raise UsageError("--frames with --fps; must be one of the two")
        return find_inputs(
            named or [],
            recursive=self.recursive,
            hidden=self.hidden,
            globs=tuple(self.glob or ()),
            from_file=self.from_file,
            limit=self.limit,
            shard=_shard(self.shard),
            null=self.null,
            columns=Columns(roots=() if self.root is None else (self.root,)),
            offline=self.offline,
            url_timeout=self.url_timeout,
            exts=tuple(e for e in (self.ext or "").split(",") if e),
            video=partial(frame_inputs, frames=self.frames or 8, fps=self.fps),
            stdin=getattr(sys.stdin, "buffer", None),
        )


@dataclass(kw_only=True)
class Run(Reading):
    """Those of every verb that writes a record of each image."""

    output: Output = None
    format: Format = None
    json: AsJson = False
    existing: Existing = None
    resume: Resume = False
    batch_size: BatchSize = None
    compile: Compile = False

    @property
    def form(self) -> str | None:
        """The format asked for; None: by the output's extension."""
        return "jsonl" if self.json else self.format

    def load_any(self, name: str | None, default: str = BUNDLED) -> Model:
        """The model to use: that of an exported folder runs without torch, any other by `load`."""
        from blip_lite.errors import UsageError
        from blip_lite.onnx_backend import is_exported
        from blip_lite.onnx_backend import load as load_exported

        named = model_name(name, default)
        if not is_exported(Path(named).expanduser()):
            return self.load(name, default)
        other = {
            "--device": self.device not in ("auto", "cpu"),
            "--dtype": self.dtype not in ("auto", "fp32"),
            "--image-size": self.image_size is not None,
            "--compile": self.compile,
        }
        for flag in (flag for flag, given in other.items() if given):
            raise UsageError(f"{flag}; must be left out: an exported model runs on the CPU as it was written")
        return load_exported(named, threads=self.threads)

    def load(self, name: str | None, default: str = BUNDLED) -> Model[TorchBackend]:
        """The model to use over torch; says so in one line when it is a bundled default."""
        from blip import api

        notice(name, default, self.quiet)
        return api.load(
            model_name(name, default),
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            image_size=self.image_size,
            compile=self.compile,
            offline=self.offline or None,
        )

    def default_batch_size(self, model: Model) -> int:
        """What the user has said, else what suits the device."""
        return self.batch_size or model.default_batch_size


@dataclass(kw_only=True)
class Columns:
    """The flags of every verb that reads rows with columns."""

    root: Root = None
    image_column: ImageColumn = "image"
    text_column: TextColumn = None
    key_column: KeyColumn = None
    question_column: QuestionColumn = None
    answer_column: AnswerColumn = None
    sentence_column: SentenceColumn = None
    label_column: LabelColumn = None
    skip_bad: SkipBad = False

    def reading(self) -> dict[str, Any]:
        """The fields of `blip.data.sources.Reading` that were given."""
        given = {
            "root": None if self.root is None else str(self.root),
            "image": None if self.image_column == Columns.image_column else self.image_column,
            "text": self.text_column,
            "key": self.key_column,
            "question": self.question_column,
            "answer": self.answer_column,
            "sentence": self.sentence_column,
            "label": self.label_column,
            "skip_bad": self.skip_bad or None,
        }
        return {name: value for name, value in given.items() if value is not None}


def flat(verb: Callable[..., int]) -> Callable[..., int]:
    """The verb with the fields of its argument `run` as arguments of their own: typer makes a flag of each."""
    hints = get_type_hints(verb, include_extras=True)
    group = hints["run"]
    flags = get_type_hints(group, include_extras=True)
    spelled: list[Parameter] = []
    for parameter in signature(verb).parameters.values():
        if parameter.name == "run":
            spelled += [
                Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=flags[f.name])
                for f in fields(group)
            ]
        else:
            spelled.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))

    @wraps(verb)
    def call(**given: Any) -> int:
        run = group(**{f.name: given.pop(f.name) for f in fields(group)})
        return verb(**given, run=run)

    call.__signature__ = Signature(spelled)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in spelled}
    return call


def _shard(text: str | None) -> tuple[int, int] | None:
    from blip_lite.errors import UsageError

    if text is None:
        return None
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise UsageError(f"--shard {text}; must be I/N with I from 0 to N-1")
    return int(first), int(count)


def texts_of(texts: list[str] | None, file: Path | None, flag: str = "--texts") -> list[str]:
    """Texts given one by one and those of a file, one a line."""
    from blip_lite.errors import UsageError

    if file is None:
        return list(texts or [])
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{flag} {file}; {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag} {file}; must be UTF-8 text") from error
    return [*(texts or []), *(line for line in lines if line.strip())]
