"""The page of a report: tables, charts and examples in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from blip.capfilt.record import HUMAN, SYNTHETIC
from blip.capfilt.report import cards, score_charts
from blip.capfilt.report.markup import decimal, paragraph, percent, shorten, side_by_side, table
from blip.capfilt.report.queries import SAMPLE, Diversity, ImageCounts
from blip.capfilt.report.selected import selection_section
from blip.capfilt.report.summary import Summary
from blip.capfilt.sources import ImageLocator
from blip.io.html_page import document

STYLE = """
:root { --kept: #1668a8; --dropped: #8b949e; --other: #b0480f }
@media (prefers-color-scheme: dark) { :root { --kept: #5aa9e6; --dropped: #747c87; --other: #f0924d } }
h2 { margin: 2.2rem 0 .6rem } h3 { margin: 1.4rem 0 .4rem; font-size: 1.05rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem }
.tiles div { background: var(--soft); border-radius: 8px; padding: .6rem .9rem }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.3 }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1rem 2rem }
.columns h3:first-child { margin-top: .4rem }
.wide { overflow-x: auto } td.n, th.n { text-align: right } td.n { white-space: nowrap }
tr > :last-child { padding-right: 0 } th { vertical-align: bottom }
@media (max-width: 480px) { .wide td, .wide th { padding-right: .45rem; font-size: 13px } td.long { min-width: 7rem } }
td { vertical-align: top } td.long { overflow-wrap: anywhere; min-width: 9rem }
"""
LISTED = 10  # items of a list among the settings
SCORES = {"itm": "match probability (ITM)", "itc": "cosine (ITC)"}


def page(summary: Summary, locate: ImageLocator) -> str:
    """Return the page; images of examples that cannot be read are left out with a note."""
    parts = (
        _overview(summary),
        selection_section(summary.selection),
        score_charts.histogram_section(summary),
        score_charts.truth_section(summary),
        cards.section(summary, locate),
        _synthetic_texts(summary),
        _diversity(summary.diversity),
        _errors(summary),
        _settings(summary.settings),
    )
    return document("CapFilt report", "".join(parts), STYLE + score_charts.STYLE + cards.STYLE)


def _overview(summary: Summary) -> str:
    rule = f"A text is kept if its {SCORES[summary.score]} is at least {_limits(summary)}."
    human = " Human texts are kept without a score." if any(c.kind == HUMAN for c in summary.kinds) else ""
    tiles = [("images", f"{summary.images.total:,}")]
    tiles += [(f"of {c.kind} texts kept", percent(c.kept, c.texts)) for c in summary.kinds if c.kind != HUMAN]
    tiles += [("images with errors", f"{summary.images.errors:,}")] if summary.images.errors else []
    rows = [
        (c.kind, f"{c.texts:,}", f"{c.kept:,}", f"{c.texts - c.kept:,}", percent(c.kept, c.texts))
        for c in summary.kinds
    ]
    missing = "1 shard is" if summary.missing_shards == 1 else f"{summary.missing_shards:,} shards are"
    boxes = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in tiles)
    return (
        paragraph(rule + human)
        + (paragraph(f"{missing} not scored yet; this report is on the others.") if summary.missing_shards else "")
        + f"<div class=tiles>{boxes}</div>"
        + "<h2>Kept and dropped</h2>"
        + side_by_side(
            table(("texts", "all", "kept", "dropped", "share kept"), rows),
            table(("kept texts of an image", "images", "share"), _image_rows(summary.images)),
        )
    )


def _limits(summary: Summary) -> str:
    """Return the thresholds in words, such as "0.5 (web) and 0.7 (synthetic)"."""
    limits = []
    for kind, value in summary.thresholds.items():
        requested = summary.requested[kind]
        share = f", the best {requested.value * 100:g} %" if requested.is_share else ""
        limits.append((f"{value:.4g}", f"{kind}{share}"))
    (web, web_note), (synthetic, synthetic_note) = limits
    if web == synthetic and not any(t.is_share for t in summary.requested.values()):
        return web
    return f"{web} ({web_note}) and {synthetic} ({synthetic_note})"


def _image_rows(images: ImageCounts) -> Iterator[tuple[str, str, str]]:
    counts = {" and ".join(kinds) or "none": count for kinds, count in images.by_kept.items()}
    counts |= {"image without texts": images.without_texts} if images.without_texts else {}
    counts |= {"image with an error": images.errors} if images.errors else {}
    for name, count in counts.items():
        yield name, f"{count:,}", percent(count, images.total)


def _synthetic_texts(summary: Summary) -> str:
    if not any(counts.kind == SYNTHETIC for counts in summary.kinds):
        return ""
    title = "<h2>Most frequent synthetic texts</h2>"
    if not summary.frequent:
        return title + paragraph("No synthetic text occurs more than once.")
    rows = [(shorten(t.text), f"{t.count:,}", percent(t.kept, t.count)) for t in summary.frequent]
    return title + table(("text", "images", "share kept"), rows, "lnn")


def _diversity(diversity: Sequence[Diversity]) -> str:
    columns = [d for d in diversity if not (d.kept_only and d.kind == HUMAN)]
    header = ("", *(f"{d.kind}, {'kept' if d.kept_only else 'all'}" for d in columns))
    measures: dict[str, Callable[[Diversity], str]] = {
        "texts": lambda d: f"{d.texts:,}",
        "different texts": lambda d: percent(d.distinct_texts, d.texts),
        "words per text": lambda d: f"{d.words / d.counted:.1f}" if d.counted else "–",
        "vocabulary": lambda d: f"{d.vocabulary:,}",
        "distinct-1": lambda d: decimal(d.vocabulary / d.words if d.words else None),
        "distinct-2": lambda d: decimal(d.distinct_bigrams / d.bigrams if d.bigrams else None),
    }
    rows = [(name, *map(measure, columns)) for name, measure in measures.items()]
    note = (
        "Vocabulary: different words. Distinct-1 and distinct-2: different words and pairs of words per word and pair"
    )
    if any(d.counted < d.texts for d in diversity):
        note += f". These depend on the number of texts, so words of {SAMPLE:,} texts, drawn by their keys, are counted"
    return "<h2>Diversity</h2>" + table(header, rows) + paragraph(f"{note}.", small=True) if columns else ""


def _errors(summary: Summary) -> str:
    if not summary.errors:
        return ""
    rows = [(reason, f"{count:,}") for reason, count in summary.errors]
    return "<h2>Errors by reason</h2>" + table(("reason", "images"), rows, "ln")


def _settings(folders: Mapping[str, Mapping[str, Any]]) -> str:
    tables = (
        f"<h3>{escape(folder)}</h3>" + table(("setting", "value"), _flatten(settings), "tl")
        for folder, settings in folders.items()
    )
    return "<h2>Settings of the run</h2>" + "".join(tables)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of the entries of nested settings, such as `captioner.sha256`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            more = f", ... ({len(value):,} in all)" if len(value) > LISTED else ""
            yield prefix + name, ", ".join(map(str, value[:LISTED])) + more
        else:
            yield prefix + name, str(value)
