"""Contact sheets and pictures in terminals."""

from __future__ import annotations

import base64
import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from blip.apps.search import sheet, terminal
from blip_lite.errors import UsageError
from blip_lite.results import Hit


def colours(path: Path, *names: str) -> list[Hit]:
    hits = []
    for i, name in enumerate(names):
        Image.new("RGB", (300, 200), (250, 40 * i, 0)).save(path / name)
        hits.append(Hit(i + 1, str(path / name), 0.5 - i / 10, itc=0.4, itm=0.9))
    return hits


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_photos_stand_in_a_grid(tmp_path: Path, suffix: str) -> None:
    hits = colours(tmp_path, "a.png", "b é.png", "c.png", "d.png", "e.png", "f.png")
    sheet.write(tmp_path / f"sheet{suffix}", hits, "red things")
    pixels = np.asarray(Image.open(tmp_path / f"sheet{suffix}").convert("RGB"), np.int16)
    for i in range(6):
        x = sheet.GAP + i % 5 * (sheet.SIDE + sheet.GAP) + sheet.SIDE // 2
        y = 2 * sheet.GAP + sheet.LINE + i // 5 * (sheet.SIDE + 2 * sheet.LINE + sheet.GAP) + sheet.SIDE // 2
        assert abs(pixels[y, x] - (250, 40 * i, 0)).max() < 12


def test_a_photo_that_is_gone_leaves_its_place(tmp_path: Path) -> None:
    hits = colours(tmp_path, "a.png", "b.png")
    (tmp_path / "a.png").unlink()
    assert sheet.draw(hits, "x").size == sheet.draw(hits[1:] * 2, "x").size
    assert sheet.draw([], "x").width > 100


def test_too_many_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at most 400"):
        sheet.write(tmp_path / "s.png", [Hit(1, "a.png", 0.1)] * 401, "x")
    assert not list(tmp_path.iterdir())


def test_a_title_without_end_is_cut_at_once() -> None:
    start = time.perf_counter()
    sheet.draw([], "dog " * 30_000)
    assert time.perf_counter() - start < 2


def test_letters_that_a_font_lacks_are_told_in_others() -> None:
    assert sheet._drawable("café 猫\n.png", ImageFont.load_default(13)) == "cafe ? .png"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "WezTerm"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({}, None),
    ],
)
def test_terminals_are_known_by_what_they_say(environ: dict[str, str], expected: str | None) -> None:
    assert terminal.protocol(environ) == expected


def test_the_picture_can_be_read_from_the_escapes() -> None:
    photo = Image.fromarray(np.random.RandomState(0).randint(0, 256, (90, 120, 3), dtype=np.uint8))
    text = terminal.escape(photo, "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(parts) > 1 and parts[0][0] == "a=T,f=100,q=2,m=1" and parts[-1][0] == "m=0"
    assert all(len(data) <= terminal.CHUNK for _, data in parts)
    data = base64.b64decode("".join(data for _, data in parts))
    assert (np.asarray(Image.open(io.BytesIO(data))) == np.asarray(photo)).all()
    inline = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);.*:(.*)\a\n", terminal.escape(photo, "iterm2"))
    assert inline and len(base64.b64decode(inline[2])) == int(inline[1])
