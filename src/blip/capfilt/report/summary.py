"""All figures of a report in one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from blip.capfilt.database import Database, lowest_kept
from blip.capfilt.record import SYNTHETIC, WEB
from blip.capfilt.report import queries
from blip.capfilt.report.distributions import ITC, ITM, Histogram, Truth, compare_with_truth, histograms
from blip.capfilt.report.examples import Example, Group, examples
from blip.capfilt.report.queries import Diversity, FrequentText, ImageCounts, KindCounts
from blip.capfilt.report.selected import Record, read_selection
from blip.capfilt.rules import Score, Threshold
from blip.engine.folder import OutputFolder


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of a report. thresholds: the lowest score that is kept, by kind; `requested` may be shares."""

    score: Score
    requested: Mapping[str, Threshold]
    thresholds: Mapping[str, float]
    images: ImageCounts
    kinds: Sequence[KindCounts]
    histograms: Sequence[Histogram]  # of ITM, then of ITC
    truth: Truth | None
    examples: Mapping[tuple[str, Group], Sequence[Example]]  # by kind and group
    frequent: Sequence[FrequentText]  # synthetic texts
    diversity: Sequence[Diversity]  # of each kind: of all texts, of the kept ones
    errors: Sequence[tuple[str, int]]  # reason and count
    settings: Mapping[str, Mapping[str, Any]]  # content of `settings.json` by folder
    missing_shards: int  # that `run` has not scored yet
    selection: Record | None  # in the first folder


def summarize(
    db: Database,
    score: Score,
    thresholds: Mapping[str, Threshold],
    folders: Sequence[OutputFolder],
    *,
    truth_column: str | None,
    examples_per_group: int,
) -> Summary:
    """Return the figures of score files."""
    limits = {kind: lowest_kept(db, db.relation, kind, score, thresholds[kind]) for kind in (WEB, SYNTHETIC)}
    queries.create_view(db, score, limits, truth_column)
    queries.group_texts(db)
    kinds = queries.count_kinds(db)
    return Summary(
        score=score,
        requested=thresholds,
        thresholds=limits,
        images=queries.count_images(db),
        kinds=kinds,
        histograms=[*histograms(db, ITM), *histograms(db, ITC)],
        truth=None if truth_column is None else compare_with_truth(db, truth_column, score, limits[WEB]),
        examples={
            (kind.kind, group): examples(db, kind.kind, group, score, limits[kind.kind], examples_per_group)
            for kind in kinds
            if kind.kind in limits
            for group in get_args(Group)
        },
        frequent=queries.frequent_texts(db),
        diversity=[queries.measure_diversity(db, kind, kept_only=kept) for kind in kinds for kept in (False, True)],
        errors=queries.count_errors(db),
        settings={str(folder.path): folder.settings() for folder in folders},
        missing_shards=sum(not folder.is_done(unit) for folder in folders for unit in folder.units()),
        selection=read_selection(folders[0].path),
    )
