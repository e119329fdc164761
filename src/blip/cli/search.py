"""`blip search`: find indexed photos by text or photo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from blip.cli import options as o
from blip.cli.commands import OUTPUT, argument, option
from blip.cli.index_options import IndexOptions, summary
from blip.cli.settings import configurable
from blip_lite.errors import UnreadableImage, UsageError

if TYPE_CHECKING:
    from blip.apps.search.index import Index
    from blip_lite.results import Hit

NEAR_IDENTICAL = 0.97
FAILURES = 5  # that an update names; it counts all


@dataclass(kw_only=True)
class _Out:
    """How hits are shown."""

    output: Path | None
    format: str | None
    existing: o.ExistingPolicy
    files_only: bool
    null: bool
    thumbnails: bool
    launch: bool
    title: str
    quiet: bool


@configurable
def search(
    *,
    inputs: Annotated[
        tuple[str, ...],
        argument("[QUERY]...", help="Text, ./photo.jpg or URL; '+ Q' adds, '- Q' subtracts, '2:Q' doubles."),
    ],
    top: Annotated[int, option("-n", "--top", min=1, help="Number of photos.")] = 10,
    folder: Annotated[Path | None, option("--in", metavar="DIR", help="Only photos in this folder.")] = None,
    min_score: Annotated[
        float | None, option(help="Only photos with this score: cosine, plus a logit if re-ranked.")
    ] = None,
    rerank: Annotated[int, option(min=0, help="Re-rank the N nearest photos with the ITM head; 0 for none.")] = 128,
    duplicates: Annotated[bool, option(help="Groups of near-identical photos; QUERY is their cosine, 0.97.")] = False,
    no_update: Annotated[bool, option(help="Do not update the index first.")] = False,
    url_timeout: o.UrlTimeout = 20.0,
    files_only: Annotated[bool, option("-f", "--files-only", group=OUTPUT, help="Print paths, one per line.")] = False,
    null: Annotated[bool, option("-0", group=OUTPUT, help="Print paths, each followed by NUL.")] = False,
    launch: Annotated[bool, option("--open", group=OUTPUT, help="Open the photos, or the contact sheet.")] = False,
    thumbnails: Annotated[bool, option(group=OUTPUT, help="Show pictures, if the terminal can.")] = False,
    output: Annotated[
        Path | None,
        option("-o", "--output", metavar="FILE", group=OUTPUT, help="Records, or a contact sheet: .png or .jpg."),
    ] = None,
    format: Annotated[
        str | None, option(group=OUTPUT, help="text, jsonl, csv, tsv or parquet.", default="text")
    ] = None,
    json: o.AsJson = False,
    skip_existing: o.SkipExisting = None,
    overwrite: o.Overwrite = False,
    run: IndexOptions,
) -> int:
    """Find photos by text or photo.

    Example: blip index ~/Pictures && blip search "dog on a beach" - people -n 5
    """
    from blip.apps.search.query import parse

    words = list(inputs)
    out = _Out(
        output=output,
        format="jsonl" if json else format,
        existing=o.parse_existing(skip_existing, overwrite),
        files_only=files_only,
        null=null,
        thumbnails=thumbnails,
        launch=launch,
        title=" ".join(words),
        quiet=run.quiet,
    )
    if not _must_write(out):
        return 0
    if duplicates:
        threshold = _threshold(words)
        with run.open() as index:
            _refresh(index, run, no_update)
            return _show_groups(index.duplicates(threshold, under=folder), out)
    parts = parse(words, offline=run.offline, url_timeout=url_timeout)
    for part in parts:
        if part.text is not None and os.path.isfile(part.text):
            o.note(f"'{part.text}' is taken as text; write ./{part.text} for the photo", run.quiet)
    with run.open() as index:
        _refresh(index, run, no_update)
        workers = run.workers or o.default_workers()
        hits = index.search(parts, top=top, rerank=rerank, under=folder, min_score=min_score, workers=workers)
    return _show(hits, out)


def _must_write(out: _Out) -> bool:
    """False when the output is there and is to be skipped; raises UsageError for flags that do not fit."""
    from blip.io.records import format_of, must_write

    if (out.files_only or out.null) and (out.format or out.output):
        raise UsageError("-f or -0 with another format or -o; must be one of the two")
    if not _is_sheet(out.output):
        format_of(out.output, out.format)
    elif out.format is not None:
        raise UsageError(f"-o {out.output} with a format; must be one of the two")
    if must_write(out.output, existing=out.existing):
        return True
    o.note(f"{out.output} exists, nothing to do", out.quiet)
    return False


def _threshold(words: Sequence[str]) -> float:
    """The cosine of near-identical photos."""
    try:
        found = float(words[0]) if words else NEAR_IDENTICAL
    except ValueError:
        found = 0.0
    if len(words) > 1 or not 0 < found <= 1:
        raise UsageError(f"--duplicates {' '.join(words)}; must be followed by a number up to 1, or by nothing")
    return found


def _refresh(index: Index, run: IndexOptions, no_update: bool) -> None:
    """Brings the indexed folders up to date, unless that cannot be done now: then what is there is searched."""
    from blip.apps.search.database import is_writable
    from blip.cli.run import Terminated
    from blip.signals import stop_on_signal

    if no_update or not index.exists or not index.roots():
        return
    if not is_writable(index.folder):
        o.note(f"{index.folder} cannot be written; searching what it holds", run.quiet)
        return
    try:
        with stop_on_signal() as stop:
            report = index.update(options=run.work(index, stop), on_wait=_give_up)
    except _Busy:
        o.note("another process is writing to this index; searching what it holds so far", run.quiet)
        return
    if stop.reason:
        raise KeyboardInterrupt if stop.reason == "interrupted" else Terminated
    for folder in report.missing:
        o.note(f"{folder}: folder is not there now; its photos are kept", run.quiet)
    for path, reason in report.failed[:FAILURES]:
        o.note(f"{path}: {reason}", run.quiet)
    if report.new or report.changed or report.moved or report.copied or report.removed or report.failed:
        o.note(summary(report), run.quiet)


class _Busy(Exception):
    """Another process is writing to the index."""


def _give_up() -> None:
    raise _Busy


def _show(hits: Sequence[Hit], out: _Out) -> int:
    """Writes hits where and how they were asked for; the exit code."""
    if not hits:
        o.note("nothing found", out.quiet)
    if _is_sheet(out.output):
        from blip.apps.search.output import write_sheet

        assert out.output is not None
        write_sheet(out.output, hits, out.title)
    elif out.files_only or out.null:
        _paths([hit.path for hit in hits], out.null)
    elif out.thumbnails and out.format is None and out.output is None and sys.stdout.isatty():
        _pictures(hits, out)
    else:
        _records(hits, out, ("score", "path"))
    if out.launch:
        _launch([out.output] if _is_sheet(out.output) and out.output else [Path(hit.path) for hit in hits], out)
    return 0


def _show_groups(groups: Sequence[Sequence[Hit]], out: _Out) -> int:
    """The same for groups: a line for each photo, or with -f their paths and an empty line between groups."""
    if not (out.files_only or out.null) and not _is_sheet(out.output):
        if not groups:
            o.note("nothing found", out.quiet)
        _records([hit for group in groups for hit in group], out, ("rank", "score", "path"))
        return 0
    if _is_sheet(out.output):
        return _show([hit for group in groups for hit in group], out)
    _paths(
        [path for i, group in enumerate(groups) for path in (*([""] if i else []), *(h.path for h in group))], out.null
    )
    return 0


def _records(hits: Sequence[Hit], out: _Out, columns: tuple[str, ...]) -> None:
    from blip.io.records import open_records

    with open_records(
        out.output, schema="hit/1", stream=sys.stdout, format=out.format, existing=out.existing, columns=columns
    ) as records:
        records.write([{"schema": "hit/1", **hit.to_dict()} for hit in hits])


def _paths(paths: Sequence[str], null: bool) -> None:
    """As the file system has them, whatever bytes these are."""
    end = b"\0" if null else b"\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(os.fsencode(path) + end for path in paths))
    sys.stdout.buffer.flush()


def _pictures(hits: Sequence[Hit], out: _Out) -> None:
    """Each hit's picture above its line, where the terminal can show it."""
    from blip.apps.search import output

    protocol = output.terminal_protocol(os.environ)
    if protocol is None:
        o.note(f"--thumbnails: {output.NO_PROTOCOL}", out.quiet)
        _records(hits, out, ("score", "path"))
        return
    for hit in hits:
        try:
            sys.stdout.write(output.escape_sequence(output.thumbnail(hit), protocol))
        except UnreadableImage as error:
            o.note(str(error))
        name = "".join(c if c.isprintable() else "?" for c in hit.path)
        sys.stdout.write(f"{hit.score:.4f}  {name}\n")
    sys.stdout.flush()


def _launch(paths: Sequence[Path], out: _Out) -> None:
    """Opens files with what the desktop has for them."""
    for path in paths:
        try:
            code = click.launch(str(path))
        except OSError:
            code = 1
        if code:
            o.note(f"--open: no program here opens {path}", out.quiet)
            return


def _is_sheet(path: Path | None) -> bool:
    return path is not None and path.suffix.lower() in (".png", ".jpg", ".jpeg")
