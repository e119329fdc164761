"""Queries of `blip search` without QUERY, at a prompt or one per line of standard input; the model stays loaded."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from blip_lite.errors import BlipError, UsageError
from blip_lite.terminal import printable

PROMPT = "search> "
LEAVE = ("quit", "exit")


def answer_all(answer: Callable[[str], object], warm_up: Callable[[], object], *, separate: bool) -> int:
    """Answer query after query; return 1 if a query from a file or pipe failed.

    warm_up is called before the first prompt. A failed query is one line on standard error. separate: print an empty
    line after each answer to piped queries.
    """
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # paths may have any bytes
    if terminal:
        warm_up()
    count = failed = 0
    for line in _lines(terminal):
        count += 1
        try:
            answer(line)
        except BlipError as error:
            failed += 1
            print(printable(f"blip: error: {' '.join(str(error).split())}"), file=sys.stderr)
        if separate and not terminal:
            print(flush=True)
    if not count and not terminal:
        raise UsageError("query is empty; give a text, ./photo.jpg or a URL")
    return 1 if failed and not terminal else 0


def split(line: str) -> list[str]:
    """Split a line into words; double quotes hold words together, as in "./my photo.jpg"."""
    words = shlex.shlex(line, posix=True)
    words.whitespace_split, words.commenters, words.quotes, words.escape = True, "", '"', ""
    try:
        return list(words)
    except ValueError:
        raise UsageError(f"query '{line}': a quotation mark is missing") from None


def _lines(terminal: bool) -> Iterator[str]:
    """Yield the lines that are not blank, until the end of the input, or `quit` on a terminal."""
    while True:
        try:
            line = _ask() if terminal else (sys.stdin.readline() if sys.stdin is not None else "")
        except EOFError:
            print()
            return
        if not line and not terminal:
            return
        line = line.strip().removeprefix("\ufeff")
        if terminal and line in LEAVE:
            return
        if line:
            yield line


def _ask() -> str:
    """Read a line with history; the prompt is on standard error if standard output is a file or pipe."""
    if sys.stdout.isatty():
        with suppress(ImportError):  # Windows
            import readline  # noqa: F401 - input() uses it
        return input(PROMPT)
    print(PROMPT, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
