"""`blip search`: find indexed photos by text or photo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from blip.cli import options as o
from blip.cli.commands import OUTPUT, argument, option
from blip.cli.index_options import IndexOptions, summary
from blip.cli.output import print_lines
from blip.cli.settings import configurable
from blip_lite.errors import BlipError, UnreadableImage, UsageError
from blip_lite.terminal import printable

if TYPE_CHECKING:
    from blip.apps.search.index import Index
    from blip.apps.search.query import Part
    from blip.io.records import Record
    from blip_lite.results import Hit

SIMILAR = 0.97  # cosine
FAILURES = 5  # named after an update; all are counted


@dataclass(kw_only=True)
class SearchOptions(IndexOptions):
    """Flags of the index and of the output of hits."""

    group = OUTPUT
    files_only: Annotated[bool, option("-f", "--files-only", help="Print paths, one per line.")] = False
    null: Annotated[bool, option("-0", help="Print paths, each followed by NUL.")] = False
    open_hits: Annotated[bool, option("--open", help="Open the photos, or the contact sheet.")] = False
    thumbnails: Annotated[bool, option(help="Show pictures, if the terminal can.")] = False
    output: Annotated[
        Path | None, option("-o", "--output", metavar="FILE", help="Records, or a contact sheet: .png or .jpg.")
    ] = None
    format: Annotated[str | None, option(help="text, jsonl, csv, tsv or parquet.", default="text")] = None
    json: o.AsJson = False
    skip_existing: o.SkipExisting = None
    overwrite: o.Overwrite = False

    def __post_init__(self) -> None:
        self.output = o.file_or_stdout(self.output)

    @property
    def record_format(self) -> str | None:
        return "jsonl" if self.json else self.format

    @property
    def existing(self) -> o.ExistingPolicy:
        return o.parse_existing(self.skip_existing, self.overwrite)

    @property
    def sheet(self) -> Path | None:
        """Path of the contact sheet, None if the output is not one."""
        from blip.io.formats import PICTURES, ending

        return self.output if self.output and ending(self.output) in PICTURES else None

    def must_write(self) -> bool:
        """Return False if the output exists and is to be skipped. Raises UsageError for flags that do not fit."""
        from blip.io import formats
        from blip.io.record_files import must_write

        if (self.files_only or self.null) and (self.record_format or self.output):
            raise UsageError("-f or -0 with another format or -o; must be one of the two")
        file_format: formats.Format = "text"
        if self.sheet is None:
            if self.output is not None and self.record_format is None:
                formats.require_ending(self.output, (*formats.RECORDS, *formats.PICTURES))
            file_format = formats.record_format(self.output, self.record_format, "hit/1")
        elif self.record_format is not None:
            raise UsageError(f"-o {self.output} with a format; must be one of the two")
        if must_write(self.output, file_format, existing=self.existing):
            return True
        o.note(f"{self.output} exists, nothing to do", self.quiet)
        return False


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
    rerank: Annotated[int, option(min=0, help="Re-rank the N nearest photos with the ITM head; 0 for none.")] = 0,
    duplicates: Annotated[bool, option(help="Groups of copies of one photo, compared pixel by pixel.")] = False,
    similar: Annotated[bool, option(help="Groups of similar photos, with a cosine of --min-score, 0.97.")] = False,
    no_update: Annotated[bool, option(help="Do not update the index first.")] = False,
    url_timeout: o.UrlTimeout = 20.0,
    run: SearchOptions,
) -> int:
    """Find photos by text or photo; without QUERY, ask for queries, or read one per line from a pipe.

    Example: blip index ~/Pictures && blip search "dog on a beach" - people -n 5
    """
    from blip.apps.search.query import parse

    if not run.must_write():
        return 0
    if duplicates or similar:
        _check_groups(inputs, min_score, duplicates, similar)
        with run.open() as index:
            _refresh(index, run, no_update)
            if duplicates:
                return _show_duplicates(index, folder, run)
            threshold = SIMILAR if min_score is None else min_score
            return _show_groups(index.similar(threshold, under=folder), run, "similar photos")

    def parse_query(words: Sequence[str]) -> list[Part]:
        terms = parse(list(words), offline=run.offline, url_timeout=url_timeout)
        for term in terms:
            if term.text is not None and os.path.isfile(term.text):
                o.note(f"'{term.text}' is taken as text; write ./{term.text} for the photo", run.quiet)
        return terms

    def answer(index: Index, terms: Sequence[Part], query: str) -> Sequence[Hit]:
        workers = run.workers or o.default_workers()
        hits = index.search(terms, top=top, rerank=rerank, under=folder, min_score=min_score, workers=workers)
        _show(hits, run, query)
        return hits

    def answer_line(index: Index, line: str) -> None:
        try:
            if not answer(index, parse_query(split(line)), line):
                _write_failure(run, line, NothingFound("no photo"))
        except BlipError as error:
            _write_failure(run, line, error)
            raise

    if inputs:
        terms = parse_query(inputs)
        with run.open() as index:
            _refresh(index, run, no_update)
            answer(index, terms, " ".join(inputs))
            return 0
    _check_prompt(run)
    from blip.cli.search_prompt import answer_all, split

    with run.open() as index:
        _refresh(index, run, no_update)
        return answer_all(
            lambda line: answer_line(index, line),
            lambda: index.model().embed_text("a photo"),
            separate=run.record_format in (None, "text") and not run.null,
        )


def _check_prompt(run: SearchOptions) -> None:
    """Raise UsageError for flags that need a single query."""
    if run.output is not None:
        raise UsageError(f"-o {run.output} without a query; must be used with one query")
    if run.record_format not in (None, "text", "jsonl"):
        raise UsageError(f"--format {run.record_format} without a query; must be text or jsonl")


def _check_groups(words: Sequence[str], min_score: float | None, duplicates: bool, similar: bool) -> None:
    """Raise UsageError for what does not fit groups of photos."""
    flag = "--duplicates" if duplicates else "--similar"
    if duplicates and similar:
        raise UsageError("--duplicates with --similar; must be one of the two")
    if words:
        advice = "; the cosine is --min-score" if similar else "; groups by cosine are --similar"
        raise UsageError(f"{flag} with the query '{' '.join(words)}'; must be used without a query{advice}")
    if duplicates and min_score is not None:
        raise UsageError("--duplicates with --min-score; copies have no threshold, must be used with --similar")
    if similar and min_score is not None and not 0 < min_score <= 1:
        raise UsageError(f"--min-score {min_score:g} with --similar; must be more than 0 and at most 1")


def _show_duplicates(index: Index, folder: Path | None, run: SearchOptions) -> int:
    """Find and print groups of copies; return 1 if some files could not be compared."""
    from blip.cli.batch_run import Progress

    shown: list[Progress] = []

    def tick(done: int, total: int) -> None:
        if not shown:
            shown.append(Progress(total, not (run.no_progress or run.quiet)))
        shown[0].update(done) if done < total else shown[0].clear()

    report = index.duplicates(under=folder, workers=run.workers or o.default_workers(), progress=tick)
    _show_groups(report.groups, run, "duplicates")
    for path, reason in report.failed:
        o.note(f"{path}: not compared, {reason}")
    return 1 if report.failed else 0


def _refresh(index: Index, run: SearchOptions, no_update: bool) -> None:
    """Update the indexed folders, unless the index cannot be written now."""
    from blip.apps.search.database import is_writable
    from blip.signals import stop_on_signal
    from blip_lite.streams import Terminated

    if no_update or not index.exists or not index.roots():
        _check_photos(index)
        return
    if not is_writable(index.folder):
        o.note(f"{index.folder} cannot be written; searching it without an update", run.quiet)
        return
    try:
        with stop_on_signal() as stop:
            report = index.update(options=run.update_options(index, stop), on_wait=_give_up)
    except _Busy:
        o.note("another process is writing to this index; searching what it holds so far", run.quiet)
        return
    if stop.reason:
        raise KeyboardInterrupt if stop.reason == "interrupted" else Terminated
    _check_photos(index)
    for folder in report.missing:
        o.note(f"{folder}: folder is missing; its photos are kept", run.quiet)
    for path, reason in report.failed[:FAILURES]:
        o.note(f"{path}: {reason}", run.quiet)
    if report.new or report.changed or report.moved or report.copied or report.removed or report.failed:
        o.note(summary(report), run.quiet)


def _check_photos(index: Index) -> None:
    """Raise UsageError if the index does not exist or has no photo."""
    if not index.has_photos():
        raise UsageError(f"{index.folder}: index has no photos; add some with 'blip index DIR'")


class _Busy(Exception):
    """Another process is writing to the index."""


def _give_up() -> None:
    raise _Busy


def _show(hits: Sequence[Hit], run: SearchOptions, query: str) -> None:
    """Print, write or open the hits of a query."""
    if not hits:
        o.note("nothing found", run.quiet)
    if run.sheet is not None:
        from blip.apps.search.output import write_sheet

        write_sheet(run.sheet, hits, query)
    elif run.files_only or run.null:
        _print_paths([hit.path for hit in hits], run.null)
    elif run.thumbnails and run.record_format is None and run.output is None and sys.stdout.isatty():
        _print_thumbnails(hits, run)
    else:
        _write_records([{**_record(hit), "query": query} for hit in hits], run, ("score", "path"))
    if run.open_hits:
        _open_files([run.sheet] if run.sheet else [Path(hit.path) for hit in hits], run)


def _show_groups(groups: Sequence[Sequence[Hit]], run: SearchOptions, title: str) -> int:
    """Like `_show`, with ranks or, with -f, an empty line between groups."""
    hits = [hit for group in groups for hit in group]
    if run.sheet is not None:
        _show(hits, run, title)
        return 0
    if run.files_only or run.null:
        blocks = [[hit.path for hit in group] for group in groups]
        _print_paths([path for i, block in enumerate(blocks) for path in ([""] if i else []) + block], run.null)
        return 0
    if not groups:
        o.note(f"no {title} found", run.quiet)
    _write_records([_record(hit) for hit in hits], run, ("rank", "score", "path"))
    if run.open_hits:
        _open_files([Path(hit.path) for hit in hits], run)
    return 0


class NothingFound(BlipError):
    """A query without hits."""


def _write_failure(run: SearchOptions, query: str, error: BlipError) -> None:
    """Write the record of a line without hits, so that every line of the input has a record."""
    from blip.io.records import error_record

    if run.record_format == "jsonl":
        _write_records([error_record("hit/1", query, error)], run, ())


def _record(hit: Hit) -> dict[str, Any]:
    return {"schema": "hit/1", **hit.to_dict()}


def _write_records(records: Sequence[Record], run: SearchOptions, columns: tuple[str, ...]) -> None:
    from blip.io.record_files import open_records

    with open_records(
        run.output,
        schema="hit/1",
        stream=sys.stdout,
        format=run.record_format,
        existing=run.existing,
        columns=columns,
    ) as writer:
        writer.write(records)


def _print_paths(paths: Sequence[str], null: bool) -> None:
    """Print paths in the bytes of the file system; on a terminal, without characters that control it."""
    if sys.stdout.isatty() and not null:
        print_lines(map(printable, paths))
        return
    end = b"\0" if null else b"\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(os.fsencode(path) + end for path in paths))
    sys.stdout.buffer.flush()


def _print_thumbnails(hits: Sequence[Hit], run: SearchOptions) -> None:
    """Print each photo above its line, if the terminal can show pictures."""
    from blip.apps.search import output

    protocol = output.terminal_protocol(os.environ)
    if protocol is None:
        o.note(f"--thumbnails: {output.NO_PROTOCOL}", run.quiet)
        _write_records([_record(hit) for hit in hits], run, ("score", "path"))
        return
    for hit in hits:
        try:
            sys.stdout.write(output.escape_sequence(output.thumbnail(hit), protocol))
        except UnreadableImage as error:
            o.note(str(error))
        name = printable(hit.path)
        sys.stdout.write(f"{hit.score:.4f}  {name}\n")
    sys.stdout.flush()


def _open_files(paths: Sequence[Path], run: SearchOptions) -> None:
    """Open files with the desktop's programs."""
    for path in paths:
        try:
            code = click.launch(str(path))
        except OSError:
            code = 1
        if code:
            o.note(f"--open: no program opens {path}", run.quiet)
            return
