"""`blip index`: index the photos of folders, for search."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from blip.cli import options as o
from blip.cli.commands import GENERAL, INPUT, OUTPUT, argument, option
from blip.cli.index_options import IndexOptions, summary
from blip.cli.output import plural, print_lines, print_table
from blip.cli.settings import configurable
from blip_lite.errors import UsageError
from blip_lite.streams import STOPPED

if TYPE_CHECKING:
    from blip.apps.search.index import Index, Status
    from blip.apps.search.scan import Rules
    from blip.apps.search.sidecars import SidecarReport
    from blip.apps.search.update import UpdateOptions, UpdateReport


@dataclass(kw_only=True)
class ActionFlags:
    """Flags of actions that exclude each other."""

    prune_only: Annotated[bool, option(help="Remove missing photos, add none.")] = False
    rebuild: Annotated[bool, option(help="Rebuild the index for DIR, or for all indexed folders.")] = False
    write_captions: Annotated[
        str | None, option(metavar="EXT", help="Write stored captions beside the photos: .txt or .xmp.")
    ] = None
    remove_captions: Annotated[bool, option(help="Remove these files, unless changed since.")] = False
    status: Annotated[bool, option(help="Show model, counts, size and failed files.")] = False

    def check(self) -> None:
        """Raise UsageError for more than one."""
        given = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value]
        if len(given) > 1:
            raise UsageError(f"{given[0]} with {given[1]}; must be one of the two")


@dataclass(kw_only=True)
class ScanFlags:
    """Flags of scanning folders."""

    group = INPUT
    video: Annotated[bool, option(help="Also index frames of videos.")] = False
    frames: Annotated[int, option(min=1, max=256, help="Frames per video, evenly spaced.")] = 8
    recursive: o.Recursive = True
    hidden: o.Hidden = False
    glob: o.Glob = ()

    def rules(self) -> Rules:
        from blip.apps.search.scan import Rules

        return Rules(
            recursive=self.recursive, hidden=self.hidden, globs=self.glob, video=self.video, frames=self.frames
        )


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
    action: ActionFlags,
    scan: ScanFlags,
    json: Annotated[bool, option(group=OUTPUT, help="Print --status as JSON.")] = False,
    dry_run: Annotated[bool, option(group=GENERAL, help="List new and changed files, and exit.")] = False,
    run: IndexOptions,
) -> int:
    """Index photos for 'blip search'; reads only new and changed files.

    Example: blip index ~/Pictures
    """
    action.check()
    if captioner is not None and not captions:
        raise UsageError("--captioner; must be used with --captions")
    work = _Indexing(run, list(inputs), scan.rules(), (captioner or "") if captions else None)
    if action.status:
        with run.open() as opened:
            opened.check()
            return _print_status(opened.status(), json)
    if dry_run:
        return work.list_changes()
    if action.prune_only:
        return work.prune()
    if action.remove_captions:
        return work.remove_captions()
    if action.write_captions is not None and not captions:
        return work.write_captions(action.write_captions)
    code = work.update(action.rebuild)
    if action.write_captions is not None and code < 2:
        code = max(code, work.write_captions(action.write_captions))
    return code


@dataclass
class _Indexing:
    """The actions on the folders of the command line; each returns the exit code."""

    run: IndexOptions
    folders: list[str]
    rules: Rules
    captioner: str | None

    def update(self, rebuild: bool) -> int:
        """Add the folders, or update those that are indexed."""
        from blip.apps.search.scan import root_path
        from blip.signals import stop_on_signal

        for folder in self.folders:
            root_path(folder)  # raises before anything is indexed
        start = time.perf_counter()
        with self.run.open(to_rebuild=rebuild) as index, stop_on_signal() as stop:
            options = self.run.update_options(index, stop, self.captioner)
            report = self._rebuild(index, options) if rebuild else self._update(index, options)
            if rebuild and report.stopped:
                o.note(f"the index is unchanged after {plural(report.new, 'new photo')}; repeat the command to resume")
            else:
                self._note_report(index, report, time.perf_counter() - start)
        if self.folders and not stop.reason and not any(vars(report).values()):
            raise UsageError(f"{', '.join(self.folders)}: no photos; --video includes videos")
        return STOPPED[stop.reason] if stop.reason else 1 if report.failed else 0

    def _update(self, index: Index, options: UpdateOptions) -> UpdateReport:
        if index.exists:
            index.check()
        self._check_model(index)
        roots = self._roots(index)
        if not roots and not (index.exists and index.roots()):
            raise UsageError("no folder is indexed yet; name one: blip index DIR")
        return index.update(roots, options=options, on_wait=self._note_wait)

    def _rebuild(self, index: Index, options: UpdateOptions) -> UpdateReport:
        from blip.apps.search.scan import display_path

        before, roots = self._known_rules(index), self._roots(index)
        report = index.rebuild(roots, options=options, on_wait=self._note_wait)
        if roots and not report.stopped:
            for path in before.keys() - {path for path, _ in roots}:
                o.note(f"{display_path(path)}: folder is no longer in the index", self.run.quiet)
        return report

    def prune(self) -> int:
        with self.run.open() as index:
            self._note_report(index, index.prune(self.folders, on_wait=self._note_wait), None)
        return 0

    def list_changes(self) -> int:
        """Print the files that an update would read."""
        with self.run.open() as index:
            changes = index.changes(self._roots(index))
            print_lines(changes)
            o.note(f"{plural(len(changes), 'new or changed file')}, to {index.folder}", self.run.quiet)
        return 0

    def write_captions(self, ending: str) -> int:
        from blip.io.sidecars import sidecar_ending

        extension = sidecar_ending(ending, "--write-captions")
        with self.run.open() as index:
            for folder in self._folders_or_all():
                self._note_sidecars(index.write_captions(extension, under=folder), "written")
        return 0

    def remove_captions(self) -> int:
        with self.run.open() as index:
            for folder in self._folders_or_all():
                self._note_sidecars(index.remove_captions(under=folder), "removed")
        return 0

    def _folders_or_all(self) -> list[str | None]:
        return [*self.folders] or [None]

    def _roots(self, index: Index) -> list[tuple[bytes, Rules]]:
        """Return the folders with the rules of the flags or, without such flags, of the index."""
        from blip.apps.search.scan import Rules, root_path

        known = self._known_rules(index)
        paths = [root_path(folder) for folder in self.folders]
        return [(path, known.get(path, self.rules) if self.rules == Rules() else self.rules) for path in paths]

    def _known_rules(self, index: Index) -> dict[bytes, Rules]:
        """Return the rules of the indexed folders; none if the index cannot be read and is to be rebuilt."""
        from blip.apps.search.database import Damaged, WrongVersion

        try:
            return {root.path: root.rules for root in index.roots()} if index.exists else {}
        except (Damaged, WrongVersion):
            return {}

    def _check_model(self, index: Index) -> None:
        """Load a model with another name than the index's, to check that it is the same model."""
        identity = index.identity() if index.exists else None
        if identity is not None and self.run.model not in (None, identity.model):
            index.model()

    def _note_wait(self) -> None:
        o.note("another process is writing to this index; waiting for it to end", self.run.quiet)

    def _note_report(self, index: Index, report: UpdateReport, seconds: float | None) -> None:
        for path, reason in report.failed:
            o.note(f"{path}: {reason}")
        for folder in report.missing:
            text = "folder is missing; its photos are kept ('blip index --prune-only' drops them)"
            o.note(f"{folder}: {text}", self.run.quiet)
        read = report.new + report.changed
        rate = "" if seconds is None else f", {seconds:.1f} s" + (f" ({read / seconds:.1f} img/s)" if read else "")
        files = plural(index.status().files, "file")
        o.note(f"{summary(report)}{rate}; {files} in {index.folder}", self.run.quiet)

    def _note_sidecars(self, report: SidecarReport, action: str) -> None:
        for path, reason in report.kept:
            o.note(f"{path}: kept, {reason}")
        unchanged = f", {report.unchanged} unchanged" if report.unchanged else ""
        o.note(f"{plural(report.done, 'caption')} {action}{unchanged}, {len(report.kept)} kept", self.run.quiet)


def _print_status(status: Status, as_json: bool) -> int:
    from blip.io.records import to_json

    record = status.to_dict()
    if as_json:
        print_lines([to_json(record)])
        return 0
    rows = []
    for name, value in {**record, "failed": len(status.failed)}.items():
        rows += [(name, "-" if item is None else str(item)) for item in (value if isinstance(value, list) else [value])]
    print_table(("what", "value"), [*rows, *(("failed", f"{path}: {reason}") for path, reason in status.failed)])
    return 0
