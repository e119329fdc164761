"""What the first bytes of an image file say: its format, its size, its declared length, and why it cannot be read.

Sizes are read here, before a decoder sees the file, for the formats whose decoder may allocate by another
number than the one that Pillow reports (WebP canvas, JPEG 2000 code stream, AVIF and HEIC items, GIF frames).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image

_AVIF = frozenset({b"avif", b"avis"})
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"<!doctype", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\0\0\1\0", "an icon file"),
    (b"\x93numpy", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)


def kind(data: bytes) -> str:
    """Name of the image format by the first bytes, or an empty string."""
    for start, name in _STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        length = int.from_bytes(data[:4], "big")
        brands = {data[i : i + 4] for i in (8, *range(16, min(length, 256, len(data)), 4))}
        return "AVIF" if brands & _AVIF else "HEIC" if brands & _HEIC else ""
    return ""


def describe(data: bytes) -> str:
    """Reason for a file that is no image."""
    text = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, name in _OTHERS:
        if text.startswith(start.lower()):
            return f"not an image but {name}"
    if data[4:8] == b"ftyp" or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return "not an image but a video"
    if not any(data[:4096]):
        return f"not an image (the first {min(len(data), 4096)} bytes are zero)"
    shown = "".join(chr(b) if 32 <= b < 127 else "." for b in data[:8])
    return f"not an image (first bytes: {data[:8].hex(' ')} '{shown}')"


def size(data: bytes, kind: str) -> tuple[int, int] | None:
    """(width, height) that a decoder might allocate; None where Pillow's own reading of the header is enough."""
    try:
        if kind == "WebP":
            return _webp_size(data)
        if kind == "JPEG 2000":
            return _largest(_code_streams(data))
        if kind in ("AVIF", "HEIC"):
            return _largest(_item_sizes(data))
        if kind == "GIF":
            return _gif_size(data)
        if kind == "PNG" and data[12:16] == b"IHDR":
            return struct.unpack_from(">II", data, 16)
    except (struct.error, IndexError):  # cut within the header: the decoder will say so
        pass
    return None


def why(data: bytes, kind: str, error: BaseException) -> str:
    """Reason for an image that failed to decode: cut short, or damaged."""
    wanted = _declared_length(data, kind)
    if wanted is not None and wanted > len(data):
        return f"truncated image (read {len(data)} of {wanted} bytes)"
    if isinstance(error, MemoryError):
        return f"{kind} image does not fit in memory"
    text = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more pixels than Pillow allows ({text[:120]})"
    lacks_end = (kind == "JPEG" and b"\xff\xd9" not in data[-64:]) or (kind == "GIF" and b"\x3b" not in data[-4:])
    if "truncat" in text.lower() or lacks_end:
        return f"truncated image (ends after {len(data)} bytes)"
    return f"damaged {kind} image ({text[:120] or type(error).__name__})"


def _largest(sizes: list[tuple[int, int]]) -> tuple[int, int] | None:
    return max(sizes, key=lambda s: s[0] * s[1], default=None)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _gif_size(data: bytes) -> tuple[int, int] | None:
    """Canvas and first frame: a frame that leaves the canvas enlarges it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[at] == 0x21:  # extensions before the first frame
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    if data[at] != 0x2C:
        return width, height
    left, top, frame_width, frame_height = struct.unpack_from("<4H", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _code_streams(data: bytes) -> list[tuple[int, int]]:
    """Image sizes of the SIZ segments: what OpenJPEG allocates, whatever the JP2 header box says."""
    boxed = [start for name, start, _ in _boxes(data) if name == b"jp2c"]
    sizes = []
    for at in [0] if data.startswith(b"\xff\x4f") else boxed:
        right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
        sizes.append((right - left, bottom - top))
    return sizes


def _item_sizes(data: bytes) -> list[tuple[int, int]]:
    """Every image size property in the metadata: tiles, thumbnails and the whole."""
    sizes = []
    for name, start, end in _boxes(data):
        at = data.find(b"ispe", start, end) if name in (b"meta", b"moov") else -1
        while at >= 0:
            sizes.append(struct.unpack_from(">II", data, at + 8))
            at = data.find(b"ispe", at + 4, end)
    return sizes


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, content start, end) of the outer boxes of AVIF, HEIC and JP2; the last end may lie beyond the data."""
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        end = at + length if length else len(data)
        yield name, at + head, end
        at = max(end, at + head)


def _declared_length(data: bytes, kind: str) -> int | None:
    """Bytes that the file must have by its own headers (at least), where the format says so."""
    try:
        if kind == "WebP":
            return 8 + int(struct.unpack_from("<I", data, 4)[0])
        if kind == "BMP":
            return int(struct.unpack_from("<I", data, 2)[0])
        if kind == "PNG":
            at = 8
            while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
                at += 12 + int(struct.unpack_from(">I", data, at)[0])
            return at + 12
        if kind in ("AVIF", "HEIC") or (kind == "JPEG 2000" and data[:4] != b"\xff\x4f\xff\x51"):
            return max((end for _, _, end in _boxes(data)), default=None)
    except struct.error:
        pass
    return None
