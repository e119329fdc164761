"""Pictures in terminals that can show them: kitty's graphics protocol, or iTerm2's inline images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Literal

from PIL import Image

Protocol = Literal["kitty", "iterm2"]
CHUNK = 4096  # bytes of base64 in one escape sequence, kitty's limit
ADVICE = "this terminal shows no pictures (kitty, Ghostty, WezTerm, Konsole and iTerm2 do); use -o sheet.png"


def protocol(environ: Mapping[str, str]) -> Protocol | None:
    """What the terminal says of itself; None also inside tmux and screen, which let no picture through."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or term.startswith(("screen", "tmux")):
        return None
    if program == "iTerm.app" or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if "KITTY_WINDOW_ID" in environ or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in ("ghostty", "WezTerm") or "KONSOLE_VERSION" in environ:
        return "kitty"
    return None


def escape(photo: Image.Image, how: Protocol) -> str:
    """The characters that show a picture at the cursor and end with a new line."""
    file = io.BytesIO()
    photo.convert("RGB").save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    if how == "iterm2":
        size = len(file.getvalue())
        return f"\x1b]1337;File=inline=1;size={size};width={photo.width}px;height={photo.height}px:{text}\a\n"
    return "".join(_kitty(text)) + "\n"


def _kitty(text: str) -> Iterator[str]:
    for start in range(0, len(text), CHUNK):
        more = int(start + CHUNK < len(text))
        head = f"a=T,f=100,q=2,m={more}" if start == 0 else f"m={more}"
        yield f"\x1b_G{head};{text[start : start + CHUNK]}\x1b\\"
