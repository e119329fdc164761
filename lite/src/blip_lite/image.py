"""Image files to RGB images, and RGB images to model input.

Files are not trusted: the first bytes determine the format, the size in the header is checked before decoding, and
every failure raises `UnreadableImage` with its reason.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
_CHUNK = 16 << 20  # bytes per read
_DESCRIPTORS = (Path("/dev/fd"), Path("/proc/self/fd"))  # of process substitution
_PIXELS_AT_ONCE = 100_000_000  # decoded by all threads together; a larger image is decoded alone
_VISIBLE_WITHIN = 16  # frames of an animation whose first ones are empty
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
        image = _open(sniff.without_text(data) if file_format == "PNG" else data, file_format, key)
        check_size(key, image.size, max_pixels)
        with _decoding.admit(image.width * image.height):
            return _decode(image, file_format, key, max_pixels)
    except (UnreadableImage, MissingExtra):
        raise
    except Exception as error:  # decoders raise almost any type on damaged files
        raise UnreadableImage(key, sniff.explain_decode_error(data, file_format, error)) from error


def from_pil(image: Image.Image, key: str) -> Image.Image:
    """Return a PIL image as RGB, upright by its EXIF, which rotations by `ImageOps.exif_transpose` remove.

    Raises UnreadableImage for an image that its file cannot fill, or of a size that files may not have.
    """
    check_size(key, image.size, MAX_PIXELS)
    try:
        image.load()
        return _upright(to_rgb(image), _orientation(image))
    except UnreadableImage:
        raise
    except Exception as error:  # a lazily opened file may be damaged, truncated or closed
        raise UnreadableImage(key, f"PIL image cannot be loaded ({' '.join(str(error).split())[:120]})") from error


def from_array(values: NDArray[Any], key: str, channels_first: bool = False) -> Image.Image:
    """Return an array as RGB: uint8, or float in 0..1; grey [H, W], or 1, 3 or 4 channels first or last.

    channels_first: order if both ends could be channels. The fourth channel is alpha (over white). Raises
    UnreadableImage for other shapes and types, NaN, and values out of range.
    """
    shape = f"array {values.dtype} {list(values.shape)}"
    first, last = (values.ndim == 3 and values.shape[i] in (1, 3, 4) for i in (0, 2))
    if values.ndim != 2 and not (first or last):
        raise UnreadableImage(key, f"{shape}; must be [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels")
    if first and (channels_first or not last):
        values = values.transpose(1, 2, 0)
    check_size(key, (values.shape[1], values.shape[0]), MAX_PIXELS)
    if np.issubdtype(values.dtype, np.floating):
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):  # also false for NaN
            observed = "NaN" if np.isnan(low) else f"values from {low:.4g} to {high:.4g}"
            raise UnreadableImage(key, f"{shape} with {observed}; float values must be from 0 to 1, not normalised")
        values = (values.astype(np.float64) * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise UnreadableImage(key, f"{shape}; must be uint8, or float from 0 to 1")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return to_rgb(Image.fromarray(np.ascontiguousarray(values)))


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


def shrink(image: Image.Image, size: int) -> Image.Image:
    """`square` of an image with more pixels, else the image itself: `prepare` returns the same for both."""
    return square(image, size) if image.width * image.height > size * size else image


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
        data = _object_bytes(source, key, limit)
    if len(data) > limit:
        raise UnreadableImage(key, _too_big(len(data), limit))
    return data


def _file_bytes(path: Path, key: str, limit: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage(key, "is a folder, not an image file")
        if not stat.S_ISREG(status.st_mode) and path.parent not in _DESCRIPTORS:
            raise UnreadableImage(key, "is not a regular file; pass its contents on standard input")
        if status.st_size > limit:
            raise UnreadableImage(key, _too_big(status.st_size, limit))
        with open(path, "rb") as file:
            return _read_chunks(file, limit)
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(key, "no such file") from error
    except OSError as error:
        raise UnreadableImage(key, f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL character in the name
        raise UnreadableImage(key, f"not a file name ({error})") from error


def _object_bytes(file: Any, key: str, limit: int) -> bytes:
    """Contents of a file object from its start, if it can be rewound: it may have been read before."""
    try:
        if hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable()):
            file.seek(0)
        return _read_chunks(file, limit)
    except (OSError, ValueError) as error:  # closed, or not open for reading
        raise UnreadableImage(key, f"file object cannot be read ({error})") from error
    except TypeError as error:
        raise UnreadableImage(key, "file object returns text; open it in mode 'rb'") from error


def _read_chunks(file: Any, limit: int) -> bytes:
    """Contents, at most one chunk beyond `limit`. A single read of `limit` bytes would reserve them all."""
    parts = bytearray()
    while len(parts) <= limit and (part := file.read(_CHUNK)):
        parts += part
    return bytes(parts)


def _too_big(size: int, limit: int) -> str:
    return f"file of {size >> 20:,} MiB; at most {limit >> 20:,} MiB are read"


def check_size(key: str, size: tuple[int, int] | None, max_pixels: int) -> None:
    """Raise `UnreadableImage` for (width, height) with less than two pixels or with more than allowed."""
    if size is None:
        return
    width, height = size
    if width * height < 2:
        raise UnreadableImage(key, f"image of {width}x{height} pixels; at least 2 are needed")
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


def _decode(image: Image.Image, file_format: str, key: str, max_pixels: int) -> Image.Image:
    """Load an opened file as RGB, upright."""
    if file_format == "TIFF":
        _load_tiff(image, key, max_pixels)
    image.load()
    check_size(key, image.size, max_pixels)
    if file_format == "GIF":
        _seek_visible(image)
    if file_format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # some programs write zeros in place of alpha
    return _upright(to_rgb(image), _orientation(image))


def _seek_visible(image: Any) -> None:
    """Move to the first frame that is not fully transparent, if one follows soon."""
    for frame in range(min(getattr(image, "n_frames", 1), _VISIBLE_WITHIN)):
        image.seek(frame)
        if not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema()[1]:
            return
    image.seek(0)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate by the orientation. A rotated image has no EXIF, so that nothing rotates it again."""
    transpose = _TRANSPOSE.get(orientation)
    if transpose is None:
        return image
    image = image.transpose(transpose)
    image.info = {}
    return image


class _PixelBudget:
    """Limits the pixels that threads decode at the same time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reset()
        if hasattr(os, "register_at_fork"):  # a forked process has none of the threads that decode
            os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self.used, self.changed = 0, threading.Condition()

    @contextmanager
    def admit(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` fit beside those of other threads; more than the limit wait until they are alone."""
        with self.changed:
            self.changed.wait_for(lambda: self.used == 0 or self.used + pixels <= self.limit)
            self.used += pixels
        try:
            yield
        finally:
            with self.changed:
                self.used -= pixels
                self.changed.notify_all()


_decoding = _PixelBudget(_PIXELS_AT_ONCE)


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
    """Convert 16-bit, 32-bit or float grey levels to RGB; white is the smallest common maximum above all values.

    Files of 16 bits often hold the 10, 12 or 14 bits of a camera.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        values = values.astype(np.uint16)
        bits = min(_sample_bits(image), next(b for b in (8, 10, 12, 14, 16) if int(values.max(initial=0)) >> b == 0))
        grey = (values >> max(0, bits - 8)).clip(0, 255)
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
