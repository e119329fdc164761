"""Tables of scores as HTML: a heading may be a picture, and a cell is the darker the higher its score."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """`share`, from 0 to 1, is how dark it is; the texts are shown one under the other."""

    share: float
    text: str
    small: str = ""

    def __str__(self) -> str:
        strength = round(100 * min(1.0, max(0.0, self.share)))
        small = f"<small>{html.escape(self.small)}</small>" if self.small else ""
        return f'<td style="--heat: {strength}%">{html.escape(self.text)}{small}</td>'


def table(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Headings are HTML as they are: escape what users wrote. It scrolls sideways where the page is narrow."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(str(cell) for cell in cells)}</tr>' for name, cells in rows
    )
    corner = html.escape(corner)
    return (
        f'<div class="scores"><table><thead><tr><th>{corner}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
