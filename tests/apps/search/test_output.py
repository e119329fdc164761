"""Contact sheets and inline images in terminals."""

from __future__ import annotations

import base64
import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from blip.apps.search import output
from blip_lite.errors import UsageError
from blip_lite.results import Hit


def coloured_hits(path: Path, *names: str) -> list[Hit]:
    hits = []
    for i, name in enumerate(names):
        Image.new("RGB", (300, 200), (250, 40 * i, 0)).save(path / name)
        hits.append(Hit(i + 1, str(path / name), 0.5 - i / 10, itc=0.4, itm=0.9))
    return hits


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_photos_are_arranged_in_a_grid(tmp_path: Path, suffix: str) -> None:
    hits = coloured_hits(tmp_path, "a.png", "b é.png", "c.png", "d.png", "e.png", "f.png")
    output.write_sheet(tmp_path / f"sheet{suffix}", hits, "red things")
    pixels = np.asarray(Image.open(tmp_path / f"sheet{suffix}").convert("RGB"), np.int16)
    for i in range(6):
        x = output.GAP + i % 5 * (output.THUMBNAIL + output.GAP) + output.THUMBNAIL // 2
        y = (
            2 * output.GAP
            + output.LINE
            + i // 5 * (output.THUMBNAIL + 2 * output.LINE + output.GAP)
            + output.THUMBNAIL // 2
        )
        assert abs(pixels[y, x] - (250, 40 * i, 0)).max() < 12


def test_deleted_photo_keeps_its_cell(tmp_path: Path) -> None:
    hits = coloured_hits(tmp_path, "a.png", "b.png")
    (tmp_path / "a.png").unlink()
    assert output.draw_sheet(hits, "x").size == output.draw_sheet(hits[1:] * 2, "x").size
    assert output.draw_sheet([], "x").width > 100


def test_too_many_photos_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at most 400"):
        output.write_sheet(tmp_path / "s.png", [Hit(1, "a.png", 0.1)] * 401, "x")
    assert not list(tmp_path.iterdir())


def test_very_long_title_is_shortened_quickly() -> None:
    start = time.process_time()
    output.draw_sheet([], "dog " * 30_000)
    assert time.process_time() - start < 2


def test_characters_missing_from_the_font_are_replaced() -> None:
    assert output._drawable("café 猫\n.png", ImageFont.load_default(13)) == "cafe ? .png"


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
def test_terminal_protocol(environ: dict[str, str], expected: str | None) -> None:
    assert output.terminal_protocol(environ) == expected


def test_escape_sequences_contain_the_picture() -> None:
    photo = Image.fromarray(np.random.RandomState(0).randint(0, 256, (90, 120, 3), dtype=np.uint8))
    text = output.escape_sequence(photo, "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(parts) > 1 and parts[0][0] == "a=T,f=100,q=2,m=1" and parts[-1][0] == "m=0"
    assert all(len(data) <= output.KITTY_CHUNK for _, data in parts)
    data = base64.b64decode("".join(data for _, data in parts))
    assert (np.asarray(Image.open(io.BytesIO(data))) == np.asarray(photo)).all()
    inline = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);.*:(.*)\a\n", output.escape_sequence(photo, "iterm2"))
    assert inline and len(base64.b64decode(inline[2])) == int(inline[1])
