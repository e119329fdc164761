"""Tables and numbers of a report as HTML. Texts are escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

LONGEST = 300  # characters of a text that are shown
STYLES = {"t": "t", "l": "long", "n": "n"}  # classes of cells


def table(header: Sequence[str], rows: Iterable[Sequence[str]], columns: str = "") -> str:
    """Return a table, which scrolls sideways if it is too wide.

    columns: a letter per column, t for a text, l for a long text that may break anywhere, n for a number; by default a
    text followed by numbers.
    """
    styles = [STYLES[letter] for letter in columns or "t" + "n" * (len(header) - 1)]
    lines = [_row("th", header, styles), *(_row("td", row, styles) for row in rows)]
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _row(tag: str, cells: Sequence[str], styles: Sequence[str]) -> str:
    parts = (f"<{tag} class={style}>{escape(cell)}" for cell, style in zip(cells, styles, strict=True))
    return f"<tr>{''.join(parts)}</tr>"


def percent(part: float, whole: float) -> str:
    """Return a share in per cent, a dash if there is nothing to share."""
    return f"{part / whole:.1%}".replace("%", " %") if whole else "–"


def decimal(value: float | None) -> str:
    """Return a score with three decimals, a dash for none."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def shorten(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def side_by_side(*parts: str) -> str:
    """Return parts in two columns, in one on a narrow screen."""
    return f"<div class=columns>{''.join(f'<div>{part}</div>' for part in parts)}</div>"


def paragraph(text: str, *, small: bool = False) -> str:
    return f"<p{' class=small' if small else ''}>{escape(text)}</p>"
