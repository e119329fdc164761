"""`blip index`: remember the photos of folders, for search."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from blip.cli import options as o
from blip.cli.commands import GENERAL, INPUT, OUTPUT, argument, option
from blip.cli.index_options import IndexOptions, summary
from blip.cli.output import print_lines, print_table
from blip.cli.settings import configurable
from blip_lite.errors import UsageError

if TYPE_CHECKING:
    from blip.apps.search.index import Index, Status
    from blip.apps.search.scan import Rules
    from blip.apps.search.sidecars import SidecarReport
    from blip.apps.search.update import UpdateReport


@configurable
def index(
    *,
    inputs: Annotated[
        tuple[str, ...], argument("[DIR]...", help="Folders; without any, all indexed folders are updated.")
    ],
    captions: Annotated[bool, option(help="Also store a caption of each photo.")] = False,
    captioner: Annotated[
        str | None, option(help="Model of the captions.", default="that of the index", complete=o.model_names)
    ] = None,
    prune_only: Annotated[bool, option(help="Remove missing photos, add none.")] = False,
    rebuild: Annotated[bool, option(help="Rebuild the index for DIR, or for all indexed folders.")] = False,
    write_captions: Annotated[
        str | None, option(metavar="EXT", help="Write stored captions beside the photos: .txt or .xmp.")
    ] = None,
    remove_captions: Annotated[bool, option(help="Remove these files, unless changed since.")] = False,
    status: Annotated[bool, option(help="Show model, counts, size and failed files.")] = False,
    video: Annotated[bool, option(group=INPUT, help="Also index frames of videos.")] = False,
    frames: Annotated[int, option(min=1, max=256, group=INPUT, help="Frames per video, evenly spaced.")] = 8,
    recursive: o.Recursive = True,
    hidden: o.Hidden = False,
    glob: o.Glob = (),
    json: Annotated[bool, option(group=OUTPUT, help="Print --status as JSON.")] = False,
    dry_run: Annotated[bool, option(group=GENERAL, help="List new and changed files, and exit.")] = False,
    run: IndexOptions,
) -> int:
    """Index photos for 'blip search'; reads only new and changed files.

    Example: blip index ~/Pictures
    """
    from blip.apps.search.scan import Rules

    alone = [
        name
        for name, given in (
            ("--prune-only", prune_only),
            ("--status", status),
            ("--rebuild", rebuild),
            ("--remove-captions", remove_captions),
            ("--write-captions", write_captions is not None),
        )
        if given
    ]
    if len(alone) > 1:
        raise UsageError(f"{alone[0]} with {alone[1]}; must be one of the two")
    if captioner is not None and not captions:
        raise UsageError("--captioner; must be used with --captions")
    rules = Rules(recursive=recursive, hidden=hidden, globs=glob, video=video, frames=frames)
    verb = _Verb(run, list(inputs), rules, (captioner or "") if captions else None)
    if status:
        return _show(run.open().status(), json)
    if dry_run:
        return verb.dry_run()
    if prune_only:
        return verb.prune()
    if remove_captions:
        return verb.sidecars(None)
    if write_captions is not None and not captions:
        return verb.sidecars(write_captions)
    code = verb.update(rebuild)
    return max(code, verb.sidecars(write_captions)) if write_captions is not None and code < 2 else code


class _Verb:
    """What the verb can do with the folders named."""

    def __init__(self, run: IndexOptions, folders: list[str], rules: Rules, captioner: str | None) -> None:
        self.run, self.folders, self.rules, self.captioner = run, folders, rules, captioner

    def update(self, rebuild: bool) -> int:
        """Adds the folders named, or brings those known up to date; the exit code."""
        from blip.apps.search.scan import root_path
        from blip.signals import stop_on_signal

        for folder in self.folders:
            root_path(folder)  # nothing is done for a part of what was asked
        start = time.perf_counter()
        opened = self.run.empty(folders=bool(self.folders), on_wait=self._waiting) if rebuild else self.run.open()
        with opened as index, stop_on_signal() as stop:
            self._check(index)
            wanted = self._wanted(index)
            if not wanted and not (index.exists and index.roots()):
                raise UsageError("no folder is indexed yet; name one: blip index DIR")
            report = index.update(wanted, options=self.run.work(index, stop, self.captioner), on_wait=self._waiting)
            self._tell(index, report, time.perf_counter() - start)
        return o.STOPPED[stop.reason] if stop.reason else 1 if report.failed else 0

    def prune(self) -> int:
        with self.run.open() as index:
            self._tell(index, index.prune(self.folders, on_wait=self._waiting), None)
        return 0

    def dry_run(self) -> int:
        """Lists the files that would be read."""
        with self.run.open() as index:
            changes = index.changes(self._wanted(index))
            print_lines(changes)
            o.note(f"{len(changes)} new or changed files, to {index.folder}", self.run.quiet)
        return 0

    def sidecars(self, extension: str | None) -> int:
        """Writes captions beside the photos of the folders named or all, or removes them."""
        with self.run.open() as index:
            places: list[str | None] = [*self.folders] or [None]
            for folder in places:
                if extension is None:
                    self._tell_sidecars(index.remove_captions(under=folder), "removed")
                else:
                    self._tell_sidecars(index.write_captions(extension, under=folder), "written")
        return 0

    def _wanted(self, index: Index) -> list[tuple[bytes, Rules]]:
        """The folders and their rules: those of the flags, or where none was given, those of last time."""
        from blip.apps.search.scan import Rules, root_path

        known = {root.path: root.rules for root in index.roots()} if index.exists else {}
        paths = [root_path(folder) for folder in self.folders]
        return [(path, known.get(path, self.rules) if self.rules == Rules() else self.rules) for path in paths]

    def _check(self, index: Index) -> None:
        """Loads a model that was named and is not the index's, to see that it is the same by another name."""
        known = index.identity() if index.exists else None
        if known is not None and self.run.model not in (None, known.model):
            index.model()

    def _waiting(self) -> None:
        o.note("another process is writing to this index; waiting for it to end", self.run.quiet)

    def _tell(self, index: Index, report: UpdateReport, seconds: float | None) -> None:
        for path, reason in report.failed:
            o.note(f"{path}: {reason}")
        for folder in report.missing:
            text = "folder is not there now; its photos are kept ('blip index --prune-only' drops them)"
            o.note(f"{folder}: {text}", self.run.quiet)
        looked = report.new + report.changed
        rate = "" if seconds is None else f", {seconds:.1f} s" + (f" ({looked / seconds:.1f} img/s)" if looked else "")
        o.note(f"{summary(report)}{rate}; {index.status().files:,} files in {index.folder}", self.run.quiet)

    def _tell_sidecars(self, report: SidecarReport, what: str) -> None:
        for path, reason in report.kept:
            o.note(f"{path}: kept, {reason}")
        same = f", {report.unchanged} as they are" if report.unchanged else ""
        o.note(f"{report.done} captions {what}{same}, {len(report.kept)} left alone", self.run.quiet)


def _show(status: Status, as_json: bool) -> int:
    from blip.io.records import to_json

    model = status.model
    rows = {
        "index": str(status.folder),
        "model": None if model is None else model.model,
        "weights": None if model is None else model.weights,
        "image_size": None if model is None else model.image_size,
        "folders": status.folders,
        "files": status.files,
        "pictures": status.pictures,
        "frames": status.frames,
        "captions": status.captions,
        "failed": len(status.failed),
        "bytes": status.bytes,
    }
    if as_json:
        print_lines([to_json({**rows, "failed": [{"path": p, "reason": r} for p, r in status.failed]})])
        return 0
    cells = [(name, value) for name, some in rows.items() for value in (some if isinstance(some, list) else [some])]
    cells += [("failed", f"{path}: {reason}") for path, reason in status.failed]
    print_table(("what", "value"), [(name, "-" if value is None else str(value)) for name, value in cells])
    return 0
