"""Charts as inline SVG: bars of kept and dropped texts, lines over thresholds. The style of the page colours them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 42, 16, 20, 24  # margins


@dataclass(frozen=True)
class Scale:
    """Horizontal axis: its limits, labelled positions, and a marked position such as the threshold."""

    first: float
    last: float
    ticks: Sequence[tuple[float, str]]
    mark: tuple[float, str] | None = None

    def x(self, position: float) -> float:
        span = max(self.last - self.first, 1e-9)
        return LEFT + (position - self.first) / span * (WIDTH - LEFT - RIGHT)


def bars(
    scale: Scale, kept: Sequence[int], dropped: Sequence[int], names: Sequence[str], alt: str, *, highest: float
) -> str:
    """Return a histogram in per cent of all counts; dropped counts stand below kept ones.

    names: what a bin covers, shown with its count when the pointer rests on it. alt: description of the chart.
    highest: largest share that the vertical axis must show, so that two histograms can have the same axis.
    """
    total = sum(kept) + sum(dropped)
    top, ticks = _vertical_axis(highest)
    parts = []
    for i, (k, d) in enumerate(zip(kept, dropped, strict=True)):
        x, width = scale.x(scale.first + i), max(scale.x(scale.first + i + 1) - scale.x(scale.first + i) - 1, 0.5)
        base = 0.0
        for count, style in ((d, "dropped"), (k, "kept")):
            if count:
                share = count / total
                box = (x, _y(base + share, top), width, share / top * (HEIGHT - TOP - BOTTOM))
                parts.append(_bar(box, style, f"{names[i]}: {count:,} {style}"))
                base += share
    return _chart(scale, ticks, top, "".join(parts), alt)


def _bar(box: tuple[float, float, float, float], style: str, hint: str) -> str:
    """Return a rectangle of left, top, width and height."""
    values = " ".join(f'{name}="{value:.1f}"' for name, value in zip(("x", "y", "width", "height"), box, strict=True))
    return f"<rect class={style} {values}><title>{escape(hint)}</title></rect>"


def lines(scale: Scale, series: Mapping[str, Sequence[tuple[float, float]]], alt: str) -> str:
    """Return curves of values from 0 to 1; the name of a series is its CSS class. NaN interrupts a curve."""
    parts = []
    for name, points in series.items():
        for run in _runs(points):
            path = " ".join(f"{scale.x(x):.1f},{_y(y, 1.0):.1f}" for x, y in run)
            parts.append(f'<polyline class="{escape(name)}" points="{path}"/>')
    return _chart(scale, [(i / 4, f"{i * 25} %") for i in range(5)], 1.0, "".join(parts), alt)


def _chart(scale: Scale, ticks: Sequence[tuple[float, str]], top: float, content: str, alt: str) -> str:
    grid = "".join(
        f'<line class=grid x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(value, top):.1f}" y2="{_y(value, top):.1f}"/>'
        f'<text class=y x="{LEFT - 6}" y="{_y(value, top) + 4:.1f}">{escape(text)}</text>'
        for value, text in ticks
    )
    bottom = HEIGHT - BOTTOM
    labels = "".join(
        f'<line class=axis x1="{scale.x(at):.1f}" x2="{scale.x(at):.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text class=x x="{scale.x(at):.1f}" y="{bottom + 16}">{escape(text)}</text>'
        for at, text in scale.ticks
        if scale.first <= at <= scale.last
    )
    axis = f'<line class=axis x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">'
        f"{grid}{content}{axis}{labels}{_mark(scale)}</svg>"
    )


def _mark(scale: Scale) -> str:
    if scale.mark is None:
        return ""
    position, text = scale.mark
    x = scale.x(min(max(position, scale.first), scale.last))
    anchor = "start" if x < WIDTH * 0.25 else "end" if x > WIDTH * 0.75 else "middle"
    return (
        f'<line class=mark x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{TOP - 8}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _vertical_axis(highest: float) -> tuple[float, list[tuple[float, str]]]:
    """Return the upper end of an axis of shares and its three to five labelled values."""
    rough = max(highest, 1e-4) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    count = math.ceil(highest / step - 1e-9) or 1
    return count * step, [(i * step, f"{i * step * 100:.3g} %") for i in range(count + 1)]


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _runs(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """Yield the parts of a curve between values that are NaN."""
    run: list[tuple[float, float]] = []
    for x, y in points:
        if math.isnan(y):
            if run:
                yield run
            run = []
        else:
            run.append((x, y))
    if run:
        yield run
