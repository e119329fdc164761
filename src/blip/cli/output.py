"""Tables and lines on standard output, progress of downloads on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

import click

from blip_lite.terminal import printable


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows: aligned with a header on a terminal, else tab-separated without one."""
    if not sys.stdout.isatty():
        print_lines("\t".join(row) for row in rows)
        return
    table = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    print_lines("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def print_lines(texts: Iterable[str]) -> None:
    """Print one text per line; on a terminal, without characters that control it."""
    safe = printable if sys.stdout.isatty() else str
    for text in texts:
        click.echo("\n".join(map(safe, text.splitlines())))


def plural(number: int, noun: str) -> str:
    """Return "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def progress_bar(name: str) -> Callable[[int, int | None], None] | None:
    """Return a function that shows percent, or megabytes if the size is unknown; None without a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int | None) -> None:
        share = f"{done / total:.0%} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        sys.stderr.write(f"\r\x1b[2K{name}: {share}" + ("\n" if done == total else ""))
        sys.stderr.flush()

    return show
