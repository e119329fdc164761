"""Parts of self-contained HTML pages: frame, style, inline pictures. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL.Image import Image

from blip.io.paths import VIDEO_EXTENSIONS
from blip.io.samples import ImageRef
from blip_lite.errors import BlipError

PICTURE_PIXELS = 480  # of the longer side: twice the width of a card, for dense screens

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse }
td, th { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line) }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1rem }
.card { background: var(--soft); border-radius: 8px; overflow: hidden; padding-bottom: .6rem }
.card img { display: block; width: 100%; height: 180px; object-fit: contain; background: #0002 }
.pair { display: flex } .pair img { width: 50% }
.card p { margin: .4rem .8rem 0; overflow-wrap: anywhere } .small { font-size: 13px; opacity: .75 }
"""


def document(title: str, body: str, style: str = "") -> str:
    """Return a page: its title as text, its body as HTML; `style` is added to `STYLE`."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style>'
        f"<h1>{escape(title)}</h1>{body}</html>\n"
    )


def picture(ref: ImageRef) -> str:
    """Return an image, or the first frame of a video, as an inline JPEG; a note with the reason if it is unreadable."""
    try:
        if ref.path is not None and ref.path.suffix.lower() in VIDEO_EXTENSIONS:
            from blip.io.video import read_frames

            return inline_jpeg(read_frames(ref.path, 1)[0])
        return inline_jpeg(ref.read(key="image"))
    except BlipError as error:
        return f"<p class=small>no image: {escape(str(error))}</p>"


def inline_jpeg(image: Image) -> str:
    """Return an image, reduced to at most `PICTURE_PIXELS` per side, as an HTML element that contains it as a JPEG."""
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
