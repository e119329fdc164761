"""Tables and lines on standard output, progress of downloads on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import click

from blip_lite.terminal import printable

PLAIN_SECONDS = 30.0  # between progress lines if standard error is not a terminal
WIDTH = 80  # of a terminal of unknown width


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


def _columns() -> int:
    """Return the width of the terminal; a longer line would not be redrawn but repeated."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


class StatusLine:
    """A line of progress on standard error: redrawn on a terminal, else printed every `PLAIN_SECONDS`."""

    def __init__(self, active: bool) -> None:
        self.active, self.terminal = active, sys.stderr.isatty()
        self.started = self.last = time.monotonic()

    def show(self, text: str) -> None:
        now = time.monotonic()
        if self.active and (self.terminal or now - self.last >= PLAIN_SECONDS):
            self.last = now
            sys.stderr.write(f"\r\x1b[2K{text[: _columns() - 1]}" if self.terminal else f"{text}\n")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.active and self.terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
