"""Report page of an evaluation: metrics, worst and best examples with images, in one self-contained file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from blip.eval.base import Report, Row
from blip.io.paths import VIDEO_EXTENSIONS
from blip.io.samples import ImageRef
from blip.metrics.formatting import format_number
from blip_lite.errors import BlipError

EXAMPLES = 12  # worst ones, and as many best ones
RETRIEVED = 3  # items shown for a query
SIDE = 240  # of an image, in pixels
COUNTS = {  # fields of the metrics
    "failed": "rows could not be read",
    "missing": "ids of the data have no prediction",
    "surplus": "ids in the predictions are not in the data",
    "repeated": "ids have several predictions",
}

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse }
td, th { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line) }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1rem }
.card { background: var(--soft); border-radius: 8px; overflow: hidden; padding-bottom: .6rem }
.card img { display: block; width: 100%; height: 180px; object-fit: contain; background: #0002 }
.pair { display: flex } .pair img { width: 50% }
.card p { margin: .4rem .8rem 0; overflow-wrap: anywhere } .small { font-size: 13px; opacity: .75 }
"""


def page(report: Report, metrics: Mapping[str, Any]) -> str:
    """Return the page. metrics: content of `metrics.json`."""
    title = f"{metrics['task']} of {metrics['model']}"
    split = f", split {metrics['split']}" if "split" in metrics else ""
    about = f"{metrics['n']} examples of {metrics['data']}{split}, {metrics['seconds']:.0f} s"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{escape(about)}</p>{_metrics_table(metrics)}{_examples(report)}</html>\n"
    )


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
    pictures = "".join(_picture(ref) for ref in images)
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


def _picture(ref: ImageRef) -> str:
    """Inline image, or a note if it cannot be read."""
    try:
        if ref.path is not None and ref.path.suffix.lower() in VIDEO_EXTENSIONS:
            from blip.io.video import read_frames

            image = read_frames(ref.path, 1)[0]
        else:
            image = ref.read(key="image")
    except BlipError as error:
        return f"<p class=small>no image: {escape(str(error))}</p>"
    image.thumbnail((SIDE * 2, SIDE * 2))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'


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
