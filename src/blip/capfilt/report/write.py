"""Write the report of output folders of `run`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from blip.capfilt.database import Database
from blip.capfilt.record import SYNTHETIC, WEB, score_files
from blip.capfilt.report.page import page
from blip.capfilt.report.summary import Summary, summarize
from blip.capfilt.rules import Score, parse_threshold
from blip.capfilt.run import output_folder
from blip.capfilt.sources import ImageLocator, columns_of_shards
from blip.io.atomic import temporary_folder, write_text
from blip.io.formats import require_ending
from blip_lite.errors import UsageError

PAGE = "report.html"  # in the first folder, if no other file is named
Spec = str | os.PathLike[str]


def report(
    scores: Spec | Sequence[Spec],
    output: Spec | None = None,
    *,
    threshold: float | str = 0.5,
    threshold_web: float | str | None = None,
    threshold_synthetic: float | str | None = None,
    score: Score = "itm",
    truth_column: str | None = None,
    examples: int = 6,
    memory: str = "2GB",
    threads: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Write a self-contained HTML page on scores and thresholds, and return its figures.

    scores: folders that `run` has written. output: file; by default `report.html` in the first of them, which replaces
    an earlier report. Thresholds and score: as in `select`; other rules of a selection are not considered.
    truth_column: copied column that is true for web texts that match their image, else false. examples: images per kind
    and group. memory, threads: of the database. Raises `UsageError`.
    """
    folders = [output_folder(Path(f)) for f in ([scores] if isinstance(scores, str | os.PathLike) else scores)]
    target = folders[0].path / PAGE if output is None else Path(output)
    require_ending(target, (".html",))
    if output is not None and target.exists() and not overwrite:
        raise UsageError(f"{target} exists; choose another name or use --overwrite")
    thresholds = {
        WEB: parse_threshold(threshold if threshold_web is None else threshold_web, score),
        SYNTHETIC: parse_threshold(threshold if threshold_synthetic is None else threshold_synthetic, score),
    }
    files = [file for folder in folders for file in score_files(folder.path)]
    with (
        temporary_folder(target) as temporary,
        Database(temporary, files, memory=memory, threads=threads) as database,
    ):
        summary = summarize(
            database, score, thresholds, folders, truth_column=truth_column, examples_per_group=examples
        )
    write_text(target, page(summary, ImageLocator(columns_of_shards(folders))))
    return summary
