"""Image files to RGB images, and RGB images to model input.

Files are not trusted: the first bytes determine the format, the size in the header is checked before decoding, and
every failure raises `UnreadableImage` with its reason.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blip_lite import sniff
from blip_lite.errors import MissingExtra, UnreadableImage

MAX_PIXELS = 200_000_000
EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".webp",
    ".avif",
    ".tif",
    ".tiff",
    ".gif",
    ".bmp",
    ".dib",
    ".jp2",
    ".j2k",
    ".jpx",
    ".j2c",
    ".jpc",
    ".jpf",
    ".heic",
    ".heif",
    ".hif",
)

_BYTES_PER_PIXEL = 8  # 16-bit RGBA, the largest common pixel: limits the file size by the pixel limit
_FILE_ALLOWANCE = 64 << 20  # metadata, thumbnails, later frames
_PLUGINS = {
    "JPEG": "PIL.JpegImagePlugin",
    "PNG": "PIL.PngImagePlugin",
    "WebP": "PIL.WebPImagePlugin",
    "AVIF": "PIL.AvifImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "JPEG 2000": "PIL.Jpeg2KImagePlugin",
}
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, key: str | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read the first frame of an image file as RGB: upright by EXIF, alpha over white, 16 bits scaled to 8.

    Formats: JPEG, PNG, WebP, AVIF, TIFF, GIF, BMP, JPEG 2000, and HEIC with pillow-heif (else `MissingExtra`). Raises
    `UnreadableImage` for other formats, damaged files and more than `max_pixels` pixels. key: name of the input in
    errors; None = the path. Pillow's global settings are neither used nor changed.
    """
    key = _key(source) if key is None else key
    data = _bytes(source, key, max_pixels * _BYTES_PER_PIXEL + _FILE_ALLOWANCE)
    if not data:
        raise UnreadableImage(key, "empty file (0 bytes)")
    file_format = sniff.image_format(data)
    if file_format not in _PLUGINS and file_format != "HEIC":
        raise UnreadableImage(key, sniff.explain_not_image(data))
    check_size(key, sniff.decoded_size(data, file_format), max_pixels)
    try:
        image = _open(data, file_format, key)
        check_size(key, image.size, max_pixels)
        if file_format == "TIFF":
            _load_tiff(image, key, max_pixels)
        image.load()
        check_size(key, image.size, max_pixels)
        transpose = _TRANSPOSE.get(_orientation(image))
        rgb = to_rgb(image)
    except (UnreadableImage, MissingExtra):
        raise
    except Exception as error:  # decoders raise almost any type on damaged files
        raise UnreadableImage(key, sniff.explain_decode_error(data, file_format, error)) from error
    return rgb if transpose is None else rgb.transpose(transpose)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to RGB: alpha over white, 16-bit and float values scaled to 8 bits."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scale_to_rgb(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if type(image) is Image.Image else image.copy()  # a copy releases the file's bytes
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode[:-1] + "A")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def prepare(
    images: Sequence[Image.Image], *, size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Return pixel_values [B,3,S,S] float32: bicubic resize to a square (aspect ratio not kept), scaled, normalised.

    Equal to the original's Resize, ToTensor, Normalize bit for bit. Images should be RGB, as `read` returns them; other
    modes are converted by Pillow, which drops alpha.
    """
    values = np.empty((len(images), 3, size, size), dtype=np.float32)
    for i, image in enumerate(images):
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        values[i] = normalize(np.asarray(square(rgb, size)), mean=mean, std=std)
    return values


def normalize(pixels: NDArray[np.uint8], *, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Scale pixels [H,W,3] to 0..1 and normalise each channel: float32 [3,H,W]."""
    height, width, channels = pixels.shape
    values = np.ascontiguousarray(pixels.reshape(-1, channels).T).astype(np.float32)  # [3, H*W]
    values /= np.float32(255)
    values -= np.asarray(mean, dtype=np.float32)[:, None]
    values /= np.asarray(std, dtype=np.float32)[:, None]
    return values.reshape(channels, height, width)


def square(image: Image.Image, size: int) -> Image.Image:
    """Resize to `size` pixels square, bicubic, with the order of passes of Pillow 13 under every Pillow.

    Each pass rounds and clips to 8 bits, so the order changes pixels; before version 13 Pillow always resized the width
    first. An image of that size is returned itself.
    """
    width, height = image.size
    if width == height == size:
        return image
    if height > size and height - size > 2 * (width - size):
        image = image.resize((width, size), Image.Resampling.BICUBIC)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _key(source: object) -> str:
    name = getattr(source, "name", None) if hasattr(source, "read") else source
    if isinstance(name, str | os.PathLike):
        return os.fsencode(name).decode("utf-8", "replace")
    return "image"


def _bytes(source: str | os.PathLike[str] | bytes | BinaryIO, key: str, limit: int) -> bytes:
    """Contents of the file. Raises UnreadableImage."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        data = _file_bytes(Path(source), key, limit)
    else:
        data = source.read(limit + 1)
        if not isinstance(data, bytes):
            raise UnreadableImage(key, "file object returns text; open it in mode 'rb'")
    if len(data) > limit:
        raise UnreadableImage(key, _too_big(len(data), limit))
    return data


def _file_bytes(path: Path, key: str, limit: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage(key, "is a folder, not an image file")
        if status.st_size > limit:
            raise UnreadableImage(key, _too_big(status.st_size, limit))
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(key, "no such file") from error
    except OSError as error:
        raise UnreadableImage(key, f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL character in the name
        raise UnreadableImage(key, f"not a file name ({error})") from error


def _too_big(size: int, limit: int) -> str:
    return f"file of {size >> 20:,} MiB; at most {limit >> 20:,} MiB are read"


def check_size(key: str, size: tuple[int, int] | None, max_pixels: int) -> None:
    """Raise `UnreadableImage` for (width, height) without pixels or with more than allowed."""
    if size is None:
        return
    width, height = size
    if width < 1 or height < 1:
        raise UnreadableImage(key, f"image of {width}x{height} pixels")
    if width * height > max_pixels:
        raise UnreadableImage(
            key, f"{width}x{height} is {width * height / 1e6:.4g} megapixels; at most {max_pixels / 1e6:.4g} allowed"
        )


def _open(data: bytes, file_format: str, key: str) -> Image.Image:
    """Read the header. Calls the plugin directly, as `Image.open` applies Pillow's global pixel limit."""
    if file_format == "HEIC":
        try:
            plugin: Any = importlib.import_module("pillow_heif")
        except ImportError as error:
            raise MissingExtra(f"{key} is HEIC; reading it needs a package: pip install pillow-heif") from error
        return cast(Image.Image, plugin.HeifImageFile(io.BytesIO(data), ""))
    importlib.import_module(_PLUGINS[file_format])
    factory: Any = Image.OPEN[file_format.upper().replace("JPEG 2000", "JPEG2000")][0]
    return cast(Image.Image, factory(io.BytesIO(data), ""))


def _load_tiff(image: Any, key: str, max_pixels: int) -> None:
    """Load after checking the size of tiles, each of which is allocated; this plugin checks Pillow's global limit."""
    for size in (image.tag_v2.get(322), image.tag_v2.get(323)), getattr(image, "_tile_size", image.size):
        if all(isinstance(side, int) for side in size):
            check_size(key, size, max_pixels)
    if Image.MAX_IMAGE_PIXELS is None or image.width * image.height <= Image.MAX_IMAGE_PIXELS:
        image.load()
        return
    with warnings.catch_warnings():  # not thread-safe, so only if needed
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image.load()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF must not make the image unreadable
        return 1


def _scale_to_rgb(image: Image.Image) -> Image.Image:
    """Convert 16-bit, 32-bit or float grey levels to RGB; white is the smallest common maximum above all values."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        bits = _sample_bits(image)
        grey = (values.astype(np.uint16) >> max(0, bits - 8)).clip(0, 255)
    else:
        values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        peak = float(values.max(initial=0.0))
        white = next((w for w in (1.0, 255.0, 65535.0) if peak <= w and (w > 1 or image.mode == "F")), peak)
        grey = (values / white * 255).clip(0, 255)
        grey = grey.round() if white <= 255 else np.floor(grey)
    grey = grey.astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the grey level that is transparent
        grey = np.where(np.asarray(image) == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _sample_bits(image: Image.Image) -> int:
    bits = getattr(image, "tag_v2", {}).get(258, 16)  # TIFF BitsPerSample: 12-bit scans have mode I;16
    return int(bits[0] if isinstance(bits, tuple) else bits)
