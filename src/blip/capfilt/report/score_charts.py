"""Sections with charts of scores: histograms, and the comparison with the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from itertools import pairwise

from blip.capfilt.report.charts import Scale, bars, lines
from blip.capfilt.report.distributions import ITM, Axis, Histogram, Point, Separation
from blip.capfilt.report.markup import decimal, paragraph, percent, side_by_side, table
from blip.capfilt.report.summary import Summary

STYLE = """
figure { margin: 0 } figcaption { font-weight: 600 }
svg { display: block; width: 100%; height: auto } svg text { font-size: 12px; fill: currentColor }
svg .x { text-anchor: middle } svg .y { text-anchor: end }
svg .grid { stroke: var(--line) } svg .axis { stroke: currentColor }
svg .mark { stroke: currentColor; stroke-dasharray: 4 3; stroke-width: 1.5 }
svg .kept { fill: var(--kept) } svg .dropped { fill: var(--dropped) }
svg polyline { fill: none; stroke-width: 2.5; stroke-linejoin: round }
svg .precision { stroke: var(--kept) } svg .recall { stroke: var(--other) }
svg .share { stroke: var(--dropped); stroke-dasharray: 6 4 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0 0 .6rem }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem }
"""
NOTE = "ITM: match probability, drawn on the scale of its logit, as most values are close to 0 or 1. ITC: cosine."
ITM_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
ITC_TICKS = tuple(i / 10 for i in range(-10, 11))
BARS = {"kept": "--kept", "dropped": "--dropped"}
RESULTS = ("precision", "recall", "F1", "share kept")
CURVES = {"precision": "--kept", "recall": "--other", "share kept": "--dropped"}


def histogram_section(summary: Summary) -> str:
    """Return a histogram per score and kind."""
    if not summary.histograms:
        return ""
    figures = "".join(_histogram(h, summary) for h in summary.histograms)
    note = paragraph(NOTE, small=True)
    return f"<h2>Scores</h2>{_legend(BARS)}<div class=columns>{figures}</div>{note}"


def _histogram(histogram: Histogram, summary: Summary) -> str:
    axis, count = histogram.axis, len(histogram.kept)
    edges = [decimal(axis.edge(histogram.first + i)) for i in range(count + 1)]
    names = [f"{low} to {high}" for low, high in pairwise(edges)]
    threshold = summary.thresholds[histogram.kind]
    mark = (axis.position(threshold), f"threshold {threshold:.4g}") if axis.score == summary.score else None
    kept, total = sum(histogram.kept), sum(histogram.kept) + sum(histogram.dropped)
    title = f"{axis.score.upper()} of {histogram.kind} texts"
    chart = bars(
        _scale(axis, histogram.first, count, mark),
        histogram.kept,
        histogram.dropped,
        names,
        f"Histogram: {title}; {kept:,} of {total:,} kept",
        highest=max(h.highest_share for h in summary.histograms if h.axis is axis),
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>"


def truth_section(summary: Summary) -> str:
    """Return how well the filter separates true web texts from false ones."""
    truth = summary.truth
    if truth is None:
        return ""
    result = truth.result
    known = result.true_kept + result.false_kept + result.true_dropped + result.false_dropped
    counts = [
        ("true", f"{result.true_kept:,}", f"{result.true_dropped:,}"),
        ("false", f"{result.false_kept:,}", f"{result.false_dropped:,}"),
    ]
    empty = f" It is empty for {truth.unknown:,}." if truth.unknown else ""
    charts = "".join(_separation_figure(s, result, s.axis.score == summary.score) for s in truth.separations)
    return (
        "<h2>Compared with the truth</h2>"
        + paragraph(f"Column '{truth.column}' tells for {known:,} web texts whether they are true.{empty}")
        + side_by_side(
            table(("web texts", "kept", "dropped"), counts),
            table(("threshold", *RESULTS), [_result_row(result)]),
        )
        + f"<h3>Other thresholds</h3>{_legend(CURVES)}<div class=columns>{charts}</div>"
        + table(("threshold", *RESULTS), map(_result_row, filter(_is_informative, truth.others)))
    )


def _is_informative(point: Point) -> bool:
    """Whether a threshold keeps some texts and drops others."""
    return 0 < point.kept < 1


def _separation_figure(separation: Separation, result: Point, is_used: bool) -> str:
    axis, points = separation.axis, list(separation.points())
    mark = (axis.position(result.threshold), f"threshold {result.threshold:.4g}") if is_used else None
    series = {
        "precision": [(axis.position(p.threshold), p.precision) for p in points],
        "recall": [(axis.position(p.threshold), p.recall) for p in points],
        "share": [(axis.position(p.threshold), p.kept) for p in points],
    }
    title = f"Threshold on {axis.score.upper()}: AUC {decimal(separation.auc)}"
    chart = lines(_scale(axis, separation.first, max(len(points) - 1, 1), mark), series, title)
    best = max(points, key=lambda point: 0 if math.isnan(point.f1) else point.f1, default=None)
    note = "" if best is None else paragraph(f"Highest F1: {decimal(best.f1)} at {best.threshold:.2g}", small=True)
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}{note}</figure>"


def _result_row(point: Point) -> tuple[str, ...]:
    values = (decimal(point.precision), decimal(point.recall), decimal(point.f1), percent(point.kept, 1))
    return (f"{point.threshold:.4g}", *values)


def _scale(axis: Axis, first: int, bins: int, mark: tuple[float, str] | None) -> Scale:
    ticks = [(axis.position(tick), f"{tick:g}") for tick in (ITM_TICKS if axis is ITM else ITC_TICKS)]
    return Scale(first, first + bins, ticks, mark)


def _legend(colours: Mapping[str, str]) -> str:
    items = "".join(f'<span><i style="background:var({c})"></i>{name}</span>' for name, c in colours.items())
    return f"<p class=legend>{items}</p>"
