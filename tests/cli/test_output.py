"""The line of progress on a terminal."""

from __future__ import annotations

import os
import sys

import pytest

from blip.cli.output import StatusLine

termios = pytest.importorskip("termios")


@pytest.mark.parametrize(("columns", "shown"), [(40, 39), (0, 79), (200, 100)], ids=["narrow", "unknown", "wide"])
def test_progress_fits_in_a_line_of_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, shown: int) -> None:
    main, child = os.openpty()
    termios.tcsetwinsize(child, (24, columns))
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        line = StatusLine(True)
        line.show("x" * 100)
        line.clear()
        expected, text = "\r\x1b[2K" + "x" * shown + "\r\x1b[2K", ""
        while len(text) < len(expected):
            text += os.read(main, 1000).decode()
        assert text == expected
    os.close(main)
