"""`blip capfilt report`: an HTML page on the scores of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from blip.cli import options as o
from blip.cli.capfilt_options import DatabaseOptions, Folders, Thresholds
from blip.cli.commands import OUTPUT, option
from blip.cli.output import print_table

if TYPE_CHECKING:
    from blip.capfilt.report.summary import Summary


def report(
    *,
    scores: Folders,
    thresholds: Thresholds,
    truth_column: Annotated[
        str | None, option(help="Copied column that is true if a row's web texts match its image.")
    ] = None,
    examples: Annotated[int, option(min=0, group=OUTPUT, help="Example images per kind and group.")] = 6,
    output: Annotated[
        Path | None, option("-o", "--output", metavar="FILE", group=OUTPUT, help="Page.", default="OUT/report.html")
    ] = None,
    overwrite: o.Overwrite = False,
    database: DatabaseOptions,
    quiet: o.Quiet = False,
) -> int:
    """Write a self-contained page on the scores.

    It shows shares kept, histograms, examples on both sides of the threshold, counts of the selection, and errors.
    It replaces OUT/report.html. With --truth-column also precision, recall and AUC.
    Example: blip capfilt report clean/ --threshold 0.3
    """
    from blip import capfilt
    from blip.capfilt.report.write import PAGE

    summary = capfilt.report(
        scores,
        output,
        **vars(thresholds),
        **vars(database),
        truth_column=truth_column,
        examples=examples,
        overwrite=overwrite,
    )
    _print(summary)
    note_page(output or scores[0] / PAGE, quiet)
    return 0


def note_page(path: Path, quiet: bool) -> None:
    """Note where the page is."""
    o.note(f"report: {path}", quiet)


def _print(summary: Summary) -> None:
    rows = [(k.kind, f"{k.kept:,}", f"{k.texts:,}", f"{k.kept / k.texts:.1%}") for k in summary.kinds]
    print_table(("kind", "kept", "of", "share"), rows)
