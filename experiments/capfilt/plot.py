"""The plot of the results, as SVG: a dot per seed and a bar for the mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from statistics import mean
from typing import Any

from experiments.capfilt.data import DEV

ROWS = {
    "noisy": "noisy",
    "filter": "filter",
    "captioner": "captioner",
    "captioner-tiny": "… tiny",
    "both": "captioner + filter",
    "both-beam": "… beam search",
    "both-shared": "… shared",
    "both-second": "… second round",
    "clean": "uncorrupted",
    "human": "human pairs alone",
}
PANELS: dict[str, Callable[[Mapping[str, float]], float]] = {
    "CIDEr": lambda metrics: metrics["cider"],
    "mean of R@1": lambda metrics: (metrics["txt_r1"] + metrics["img_r1"]) / 2,
}
COLOURS = {DEV[0]: "#1f77b4", DEV[1]: "#d95f02"}
LEFT, PANEL, GAP, TOP, ROW = 150, 300, 30, 50, 28
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.grid{stroke:#8884}rect{fill:#fff}"


def plot(runs: Mapping[str, Any]) -> str:
    """Return the plot of the runs that there are: a row per selection, a panel per metric, a colour per dev set."""
    rows = {name: title for name, title in ROWS.items() if name in runs}
    width, height = LEFT + len(PANELS) * (PANEL + GAP), TOP + len(rows) * ROW + 20
    parts = [f'<rect width="{width}" height="{height}"/>']
    parts += [
        f'<text x="{LEFT - 10}" y="{TOP + (i + 0.65) * ROW:.0f}" text-anchor="end">{escape(title)}</text>'
        for i, title in enumerate(rows.values())
    ]
    for number, (title, value) in enumerate(PANELS.items()):
        values = {
            (i, dev): [value(run[dev]) for run in runs[name].values()] for i, name in enumerate(rows) for dev in DEV
        }
        parts.append(panel(LEFT + number * (PANEL + GAP), height - 20, title, values))
    for i, (dev, colour) in enumerate(COLOURS.items()):
        parts.append(f'<circle cx="{LEFT + 6 + i * 110}" cy="14" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 14 + i * 110}" y="18">{escape(dev)}</text>')
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(parts)}</svg>\n'


def panel(left: int, bottom: int, title: str, values: Mapping[tuple[int, str], list[float]]) -> str:
    """Return a panel: values by row and dev set, on an axis from 0."""
    top = max((max(v) for v in values.values()), default=1.0) or 1.0
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if top / s <= 6)
    scale = PANEL / (step * -(-top // step))
    parts = [f'<text x="{left}" y="38" font-weight="bold">{escape(title)}</text>']
    for i in range(int(PANEL / scale / step + 0.5) + 1):
        x = left + i * step * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{i * step:g}</text>')
    for (row, dev), numbers in values.items():
        y = TOP + row * ROW + (9 if dev == DEV[0] else 19)
        x = left + mean(numbers) * scale
        parts.append(f'<path d="M{x:.1f} {y - 6}v12" stroke="{COLOURS[dev]}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{left + number * scale:.1f}" cy="{y}" r="3" fill="{COLOURS[dev]}" fill-opacity=".6"/>'
            for number in numbers
        ]
    return "".join(parts)
