"""Report page of an evaluation: metrics, worst and best examples with images, in one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from blip.eval.base import Report, Row
from blip.io.html_page import document, picture
from blip.io.samples import ImageRef
from blip.metrics.formatting import format_number

EXAMPLES = 12  # worst ones, and as many best ones
RETRIEVED = 3  # items shown for a query
COUNTS = {  # fields of the metrics
    "failed": "rows could not be read",
    "missing": "ids of the data have no prediction",
    "surplus": "ids in the predictions are not in the data",
    "repeated": "ids have several predictions",
}


def page(report: Report, metrics: Mapping[str, Any]) -> str:
    """Return the page. metrics: content of `metrics.json`."""
    title = f"{metrics['task']} of {metrics['model']}"
    split = f", split {metrics['split']}" if "split" in metrics else ""
    about = f"{metrics['n']} examples of {metrics['data']}{split}, {metrics['seconds']:.0f} s"
    return document(title, f"<p>{escape(about)}</p>{_metrics_table(metrics)}{_examples(report)}")


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    head = "<tr><th>metric<th>value<th>95 % interval<th>chance<th>n<th>unit</tr>"
    rows = "".join(
        f"<tr><td>{escape(name)}<td class=n>{_number(m['value'])}<td class=n>{_interval(m)}"
        f"<td class=n>{_number(m.get('chance'))}<td class=n>{m.get('n', '')}<td>{escape(m.get('unit', ''))}</tr>"
        for name, m in metrics["metrics"].items()
    )
    skipped = "".join(
        f"<p>{escape(name)}: skipped, {escape(reason)}</p>" for name, reason in metrics.get("skipped", {}).items()
    )
    counts = "".join(f"<p>{text}: {metrics[name]}</p>" for name, text in COUNTS.items() if name in metrics)
    return f"<table>{head}{rows}</table>{skipped}{counts}{_comparison(metrics.get('compared', {}))}"


def _comparison(differences: Mapping[str, Any]) -> str:
    if not differences:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}<td class=n>{format_number(d['difference'], sign=True)}<td class=n>{_interval(d)}"
        f"<td class=n>{d['p']:.2g}<td>{'clear' if d['clear'] else 'not clear'}<td class=n>{d['n']}</tr>"
        for name, d in differences.items()
    )
    head = "<tr><th>score<th>this - other<th>95 % interval<th>p<th><th>n</tr>"
    return f"<h2>Compared, example by example</h2><table>{head}{rows}</table>"


def _examples(report: Report) -> str:
    rated = [i for i, row in enumerate(report.rows) if row.get("scores")]
    if not rated:
        return ""
    rated.sort(key=lambda i: _quality(report.rows[i]))
    worst, best = rated[:EXAMPLES], rated[EXAMPLES:][::-1][:EXAMPLES]
    return _cards("Worst", report, worst) + (_cards("Best", report, best) if best else "")


def _quality(row: Row) -> float:
    """Sort key of examples: the rank if there is one, else the first score."""
    return -float(row["rank"]) if "rank" in row else float(next(iter(row["scores"].values())))


def _cards(title: str, report: Report, chosen: Sequence[int]) -> str:
    images = report.images or [()] * len(report.rows)
    cards = "".join(_card(report.rows[i], images[i]) for i in chosen)
    return f"<h2>{title}</h2><div class=cards>{cards}</div>"


def _card(row: Row, images: Sequence[ImageRef]) -> str:
    pictures = "".join(picture(ref) for ref in images)
    text = row.get("question") or row.get("sentence") or row.get("text") or ""
    lines = [f"<p>{escape(str(text))}</p>"] if text else []
    if "prediction" in row:
        lines.append(f"<p><b>{escape(str(row['prediction']))}</b></p>")
    lines += [
        f"<p class=small>{escape(str(caption))}</p>" for caption in list(dict.fromkeys(row.get("references", [])))[:5]
    ]
    lines += [f"<p class=small>{escape(line)}</p>" for line in _retrieved(row)]
    scores = ", ".join(f"{name} {_number(value)}" for name, value in row["scores"].items())
    rank = f"rank {row['rank']}, " if "rank" in row else ""
    direction = f"{row['direction'].replace('_', ' ')}, " if "direction" in row else ""
    lines.append(f"<p class=small>{escape(row['key'])}: {escape(direction + rank + scores)}</p>")
    shape = " pair" if len(images) > 1 else ""
    return f'<div class=card><div class="pictures{shape}">{pictures}</div>{"".join(lines)}</div>'


def _retrieved(row: Row) -> list[str]:
    """Lines with the best items of a query: their texts, or the names of images; the first right one is marked."""
    best = row.get("top", [])[:RETRIEVED]
    names = row.get("retrieved") or [name for name, _ in best]
    lines = zip(range(1, RETRIEVED + 1), names, (score for _, score in best), strict=False)
    return [f"{place}. {name} ({score}){' ✓' if place == row.get('rank') else ''}" for place, name, score in lines]


def _interval(values: Mapping[str, Any]) -> str:
    return f"{format_number(values['low'])} to {format_number(values['high'])}" if "low" in values else ""


def _number(value: float | None) -> str:
    return "" if value is None else format_number(value)
