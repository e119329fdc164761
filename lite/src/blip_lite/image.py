"""Image files to RGB images, and RGB images to model input.

Files are not trusted: the first bytes determine the format, the size in the header is checked before decoding, and
every failure raises `UnreadableImage` with its reason.
"""

from __future__ import annotations

import importlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blip_lite import sniff
from blip_lite.bit_depth import fits_low_bits, grey_to_rgb, has_low_bytes, scale_colours, value_problem
from blip_lite.errors import MissingExtra, UnreadableImage
from blip_lite.image_bytes import max_bytes, read_bytes, source_key
from blip_lite.pixel_budget import decoding

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
    key = source_key(source) if key is None else key
    data = read_bytes(source, key, max_bytes(max_pixels))
    if not data:
        raise UnreadableImage(key, "empty file (0 bytes)")
    file_format = sniff.image_format(data)
    if file_format not in _PLUGINS and file_format != "HEIC":
        raise UnreadableImage(key, sniff.explain_not_image(data))
    check_size(key, sniff.decoded_size(data, file_format), max_pixels)
    try:
        data = sniff.without_text(data) if file_format == "PNG" else data
        image = _open(data, file_format, key, max_pixels)
        with decoding.admit(image.width * image.height):
            return _decode(image, data, file_format, key, max_pixels)
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
        is_wide = has_low_bytes(image)
        image.load()
        if is_wide and fits_low_bits(image):
            raise UnreadableImage(key, "16-bit colours, of which Pillow keeps 8 bits; pass the file instead")
        _check_values(image, key)
        orientation = _orientation(image)
        if image.format != "GIF" or not hasattr(image, "seek") or image.tell():
            return _upright(to_rgb(_with_alpha(image)), orientation)
        _seek_visible(image)
        rgb = to_rgb(image)
        image.seek(0)
        return rgb
    except UnreadableImage:
        raise
    except Exception as error:  # a lazily opened file may be damaged, truncated or closed
        raise UnreadableImage(key, f"PIL image cannot be loaded ({' '.join(str(error).split())[:120]})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to RGB: alpha over white, 16-bit and float values scaled to 8 bits."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return grey_to_rgb(image)
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


def _open(data: bytes, file_format: str, key: str, max_pixels: int) -> Image.Image:
    """Read the header. Calls the plugin directly, as `Image.open` applies Pillow's global pixel limit."""
    plugin: Any
    if file_format == "HEIC":
        try:
            plugin = importlib.import_module("pillow_heif").HeifImageFile
        except ImportError as error:
            raise MissingExtra(f"{key} is HEIC; reading it needs a package: pip install pillow-heif") from error
    else:
        importlib.import_module(_PLUGINS[file_format])
        plugin = Image.OPEN[file_format.upper().replace("JPEG 2000", "JPEG2000")][0]
    image = cast(Image.Image, plugin(io.BytesIO(data), ""))
    check_size(key, image.size, max_pixels)
    return image


def _decode(image: Image.Image, data: bytes, file_format: str, key: str, max_pixels: int) -> Image.Image:
    """Load an opened file as RGB, upright."""
    is_wide = has_low_bytes(image)
    _load(image, file_format, key, max_pixels)

    def read_again(change: Callable[[Image.Image], None]) -> Image.Image:
        other = _open(data, file_format, key, max_pixels)
        change(other)
        _load(other, file_format, key, max_pixels)
        return other

    _check_values(image, key)
    orientation = _orientation(image)
    if file_format == "GIF":
        _seek_visible(image)
    return _upright(to_rgb(scale_colours(image, read_again) if is_wide else _with_alpha(image)), orientation)


def _load(image: Image.Image, file_format: str, key: str, max_pixels: int) -> None:
    if file_format == "TIFF":
        _load_tiff(image, key, max_pixels)
    image.load()
    check_size(key, image.size, max_pixels)


def _check_values(image: Image.Image, key: str) -> None:
    if problem := value_problem(image):
        raise UnreadableImage(key, problem)


def _with_alpha(image: Image.Image) -> Image.Image:
    """The image, without the alpha of a BMP that is zero everywhere: some programs write zeros in its place."""
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image


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
