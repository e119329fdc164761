"""A contact sheet: the photos of hits in a grid, with score and name under each, as one PNG or JPEG picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from blip.apps.search.reading import picture_of_hit
from blip.io.atomic import atomic_path
from blip_lite.errors import UnreadableImage, UsageError
from blip_lite.results import Hit

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MOST = 400  # photos: the sheet is then 24 megapixels
SIDE, GAP, LINE = 224, 12, 17  # pixels
COLUMNS = 5
TEXT = 13  # pixels
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
PAPER, INK, PALE = (255, 255, 255), (24, 24, 24), (110, 110, 110)


def write(path: Path, hits: Sequence[Hit], title: str) -> None:
    """Writes the sheet in one step. Raises UsageError for too many hits."""
    if len(hits) > MOST:
        raise UsageError(f"-o {path}: {len(hits)} photos; a contact sheet holds at most {MOST}, use -t")
    sheet = draw(hits, title)
    with atomic_path(path) as temporary:
        sheet.save(temporary, SUFFIXES[path.suffix.lower()], quality=90)


def draw(hits: Sequence[Hit], title: str) -> Image.Image:
    """The sheet; one photo is open at a time, and one that cannot be read says why."""
    columns = min(COLUMNS, max(1, len(hits)))
    rows = -(-len(hits) // columns)
    cell = SIDE + 2 * LINE + GAP
    width = max(columns, 3) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, GAP + LINE + GAP + max(1, rows) * cell), PAPER)
    pen, font = ImageDraw.Draw(sheet), _font()
    pen.text((GAP, GAP // 2), _short(title if hits else f"{title}: nothing found", width - 2 * GAP, font), INK, font)
    for i, hit in enumerate(hits):
        x, y = GAP + i % columns * (SIDE + GAP), 2 * GAP + LINE + i // columns * cell
        pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), fill=(240, 240, 240))
        try:
            photo = thumbnail(hit, SIDE)
            sheet.paste(photo, (x + (SIDE - photo.width) // 2, y + (SIDE - photo.height) // 2))
        except UnreadableImage as error:
            pen.text((x + 6, y + SIDE // 2), _short(error.reason, SIDE - 12, font), PALE, font)
        score = f"{hit.score:.3f}" + ("" if hit.itm is None else f"   match {hit.itm:.0%}")
        pen.text((x, y + SIDE + 2), f"{hit.rank}   {score}", INK, font)
        pen.text((x, y + SIDE + 2 + LINE), _short(hit.path.rpartition("/")[2], SIDE, font), PALE, font)
    return sheet


def thumbnail(hit: Hit, side: int) -> Image.Image:
    """The photo of a hit, at most `side` pixels wide and high. Raises UnreadableImage."""
    photo = picture_of_hit(hit.path)
    photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    return photo


def _font() -> FreeTypeFont | BitmapFont:
    """A font of this machine with many letters, else Pillow's own, which has ASCII."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, TEXT)
        except OSError:
            continue
    return ImageFont.load_default(TEXT)


def _drawable(text: str, font: FreeTypeFont | BitmapFont) -> str:
    """Text in one line; for Pillow's own font é becomes e, and what cannot be told in ASCII a question mark."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if isinstance(getattr(font, "path", None), str):
        return unicodedata.normalize("NFC", text)
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()


def _short(text: str, width: int, font: FreeTypeFont | BitmapFont) -> str:
    """As much of the end of a text as fits: names differ at their ends."""
    text = _drawable(text, font)[-width:]  # no letter is narrower than a pixel
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"
