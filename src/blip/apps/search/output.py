"""Pictures of hits: a contact sheet as PNG or JPEG, and inline images in terminals (kitty's protocol, iTerm2's)."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageDraw, ImageFont

from blip.apps.search.reading import read_hit
from blip.io.atomic import atomic_path
from blip.io.formats import PICTURES, ending
from blip_lite.errors import UnreadableImage, UsageError
from blip_lite.results import Hit

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

MAX_PHOTOS = 400  # the sheet then has 24 megapixels
THUMBNAIL, GAP, LINE = 224, 12, 17  # pixels
COLUMNS = 5
FONT_SIZE = 13  # pixels
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
WHITE, BLACK, GREY = (255, 255, 255), (24, 24, 24), (110, 110, 110)

Protocol = Literal["kitty", "iterm2"]
KITTY_CHUNK = 4096  # bytes of base64 in one escape sequence, kitty's limit
NO_PROTOCOL = "this terminal shows no images (kitty, Ghostty, WezTerm, Konsole and iTerm2 do); use -o sheet.png"


def write_sheet(path: Path, hits: Sequence[Hit], title: str) -> None:
    """Write the contact sheet of hits in one step. Raises UsageError for too many hits."""
    if len(hits) > MAX_PHOTOS:
        raise UsageError(f"-o {path}: {len(hits)} photos; a contact sheet holds at most {MAX_PHOTOS}, use --top")
    sheet = draw_sheet(hits, title)
    with atomic_path(path) as temporary:
        sheet.save(temporary, PICTURES[ending(path)], quality=90)


def draw_sheet(hits: Sequence[Hit], title: str) -> Image.Image:
    """Draw photos in a grid with score and name below each; the reason replaces a photo that cannot be read."""
    columns = min(COLUMNS, max(1, len(hits)))
    rows = -(-len(hits) // columns)
    cell = THUMBNAIL + 2 * LINE + GAP
    width = max(columns, 3) * (THUMBNAIL + GAP) + GAP
    sheet = Image.new("RGB", (width, GAP + LINE + GAP + max(1, rows) * cell), WHITE)
    pen, font = ImageDraw.Draw(sheet), _font()
    pen.text(
        (GAP, GAP // 2), _shorten(title if hits else f"{title}: no photos found", width - 2 * GAP, font), BLACK, font
    )
    for i, hit in enumerate(hits):
        x, y = GAP + i % columns * (THUMBNAIL + GAP), 2 * GAP + LINE + i // columns * cell
        pen.rectangle((x, y, x + THUMBNAIL - 1, y + THUMBNAIL - 1), fill=(240, 240, 240))
        try:
            photo = thumbnail(hit)
            sheet.paste(photo, (x + (THUMBNAIL - photo.width) // 2, y + (THUMBNAIL - photo.height) // 2))
        except UnreadableImage as error:
            pen.text((x + 6, y + THUMBNAIL // 2), _shorten(error.reason, THUMBNAIL - 12, font), GREY, font)
        score = f"{hit.score:.3f}" + ("" if hit.itm is None else f"   match {hit.itm:.0%}")
        pen.text((x, y + THUMBNAIL + 2), f"{hit.rank}   {score}", BLACK, font)
        pen.text((x, y + THUMBNAIL + 2 + LINE), _shorten(hit.path.rpartition("/")[2], THUMBNAIL, font), GREY, font)
    return sheet


def thumbnail(hit: Hit) -> Image.Image:
    """Return the photo of a hit, at most `THUMBNAIL` pixels wide and high. Raises UnreadableImage."""
    photo = read_hit(hit.path)
    photo.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return photo


def _font() -> FreeTypeFont | BitmapFont:
    """Return an installed font with many characters, else Pillow's own, which is limited to ASCII."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, FONT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(FONT_SIZE)


def _drawable(text: str, font: FreeTypeFont | BitmapFont) -> str:
    """Return the text in one line; for Pillow's own font é becomes e, and other non-ASCII characters become `?`."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if isinstance(getattr(font, "path", None), str):
        return unicodedata.normalize("NFC", text)
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()


def _shorten(text: str, width: int, font: FreeTypeFont | BitmapFont) -> str:
    """Return as much of the end of a text as fits: file names differ at their ends."""
    text = _drawable(text, font)[-width:]  # no character is narrower than a pixel
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


def terminal_protocol(environ: Mapping[str, str]) -> Protocol | None:
    """Return the image protocol of the terminal; None also inside tmux and screen, which do not pass images on."""
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


def escape_sequence(photo: Image.Image, protocol: Protocol) -> str:
    """Return the characters that show an image at the cursor, followed by a newline."""
    file = io.BytesIO()
    photo.convert("RGB").save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    if protocol == "iterm2":
        size = len(file.getvalue())
        return f"\x1b]1337;File=inline=1;size={size};width={photo.width}px;height={photo.height}px:{text}\a\n"
    return "".join(_kitty_sequences(text)) + "\n"


def _kitty_sequences(text: str) -> Iterator[str]:
    for start in range(0, len(text), KITTY_CHUNK):
        more = int(start + KITTY_CHUNK < len(text))
        head = f"a=T,f=100,q=2,m={more}" if start == 0 else f"m={more}"
        yield f"\x1b_G{head};{text[start : start + KITTY_CHUNK]}\x1b\\"
