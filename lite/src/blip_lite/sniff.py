"""Headers of image files: format, size, declared length, and reasons for files that cannot be read.

Sizes are read before decoding for formats whose decoder may allocate more than the size that Pillow reports (WebP
canvas, JPEG 2000 code stream, AVIF and HEIC items, GIF frames).
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
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
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


def image_format(data: bytes) -> str:
    """Image format by the first bytes, or an empty string."""
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


def explain_not_image(data: bytes) -> str:
    """Reason why a file is not an image."""
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


def decoded_size(data: bytes, file_format: str) -> tuple[int, int] | None:
    """(width, height) that a decoder may allocate; None if the size that Pillow reads is enough."""
    try:
        if file_format == "WebP":
            return _webp_size(data)
        if file_format == "JPEG 2000":
            return _largest(_code_streams(data))
        if file_format in ("AVIF", "HEIC"):
            return _largest(_item_sizes(data))
        if file_format == "GIF":
            return _gif_size(data)
        if file_format == "PNG" and data[12:16] == b"IHDR":
            return struct.unpack_from(">II", data, 16)
    except (struct.error, IndexError):  # truncated header: the decoder reports it
        pass
    return None


def without_text(data: bytes) -> bytes:
    """A PNG without its text and colour-profile chunks, which Pillow limits in size and nothing here needs.

    Kept are texts that hold EXIF, which contains the orientation.
    """
    parts, start, at = [], 0, 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name == b"IEND" or end > len(data):
            break
        if name in _TEXT_CHUNKS and not data.startswith(b"Raw profile type exif\0", at + 8):
            parts.append(data[start:at])
            start = end
        at = end
    return b"".join([*parts, data[start:]]) if parts else data


def explain_decode_error(data: bytes, file_format: str, error: BaseException) -> str:
    """Reason why an image cannot be decoded: truncated or damaged."""
    length = _declared_length(data, file_format)
    if length is not None and length > len(data):
        return f"truncated image (read {len(data)} of {length} bytes)"
    if isinstance(error, MemoryError):
        return f"{file_format} image does not fit in memory"
    text = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more pixels than Pillow allows ({text[:120]})"
    has_end = {"JPEG": b"\xff\xd9" in data[-64:], "GIF": b"\x3b" in data[-4:]}
    if "truncat" in text.lower() or not has_end.get(file_format, True):
        return f"truncated image (ends after {len(data)} bytes)"
    return f"damaged {file_format} image ({text[:120] or type(error).__name__})"


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
    """Size of the canvas, enlarged by a first frame that exceeds it."""
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
    """Image sizes in the SIZ segments: OpenJPEG allocates these, not the size in the JP2 header box."""
    boxed = [start for name, start, _ in _boxes(data) if name == b"jp2c"]
    sizes = []
    for at in [0] if data.startswith(b"\xff\x4f") else boxed:
        right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
        sizes.append((right - left, bottom - top))
    return sizes


def _item_sizes(data: bytes) -> list[tuple[int, int]]:
    """All image size properties in the metadata: tiles, thumbnails and the full image."""
    sizes = []
    for name, start, end in _boxes(data):
        at = data.find(b"ispe", start, end) if name in (b"meta", b"moov") else -1
        while at >= 0:
            sizes.append(struct.unpack_from(">II", data, at + 8))
            at = data.find(b"ispe", at + 4, end)
    return sizes


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, content start, end) of the outer boxes of AVIF, HEIC and JP2; the last end may be beyond the data."""
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        end = at + length if length else len(data)
        yield name, at + head, end
        at = max(end, at + head)


def _declared_length(data: bytes, file_format: str) -> int | None:
    """Minimum file size by its own headers, if the format declares it."""
    try:
        if file_format == "WebP":
            return 8 + int(struct.unpack_from("<I", data, 4)[0])
        if file_format == "BMP":
            return int(struct.unpack_from("<I", data, 2)[0])
        if file_format == "PNG":
            at = 8
            while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
                at += 12 + int(struct.unpack_from(">I", data, at)[0])
            return at + 12
        if file_format in ("AVIF", "HEIC") or (file_format == "JPEG 2000" and data[:4] != b"\xff\x4f\xff\x51"):
            return max((end for _, _, end in _boxes(data)), default=None)
    except struct.error:
        pass
    return None
