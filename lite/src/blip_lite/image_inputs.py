"""Images as users pass them: of any kind, one or several, opened in batches; with their texts or questions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, BinaryIO, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blip_lite.errors import UnreadableImage, UsageError
from blip_lite.image import MAX_PIXELS, check_size, from_pil, read, shrink, to_rgb
from blip_lite.results import ErrorResult


class Pixels(Protocol):
    """A numpy array [H, W, 3] or torch tensor [3, H, W], uint8 or float in 0..1; see `from_array`."""

    @property
    def ndim(self) -> int: ...


# A mapping is a row of a Hugging Face image column: {"bytes": ..., "path": ...}, either may be None.
ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Pixels | Mapping[str, Any]
OnError = Literal["raise", "record"]
ACCEPTED = "a path, bytes, file object, PIL image, array or tensor"
NO_IMAGES = "no images given; at least one is needed"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
Opened = list[tuple[str, Image.Image | ErrorResult]]  # key, and the image or why it cannot be read


def as_batch(images: Any) -> tuple[bool, Iterable[Any]]:  # Any: any value a user passes is checked
    """Whether `images` is a single image, and the images. An array or tensor with a batch dimension is several.

    Raises UsageError if it is neither an image nor iterable.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | Mapping):
        return True, [images]
    if hasattr(images, "read"):
        return True, [images]
    if hasattr(images, "ndim"):
        return images.ndim < 4, list(images) if images.ndim == 4 else [images]
    if isinstance(images, Set):
        raise UsageError(f"images {type(images).__name__}; a set has no order, must be a list")
    if not isinstance(images, Iterable):
        raise UsageError(f"images {type(images).__name__}; must be an image or several: {ACCEPTED}")
    return False, images


def as_texts(texts: str | Iterable[str], name: str = "texts") -> list[str]:
    """One text or several as a list. Raises UsageError if there are none, or for anything but `str`."""
    return [texts] if isinstance(texts, str) else text_list(texts, name)


def text_list(texts: Iterable[str], name: str) -> list[str]:
    """Several texts as a list, a set in alphabetical order. Raises UsageError if there are none, or for other types."""
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UsageError(f"{name} {texts!r:.40}; must be a list of texts")
    result = list(texts)
    for i, text in enumerate(result):
        if not isinstance(text, str):
            raise UsageError(f"{name}: item {i} is {type(text).__name__}; must be str")
    if not result:
        raise UsageError(f"no {name} given; at least one is needed")
    return sorted(result) if isinstance(texts, Set) else [str(text) for text in result]  # not a `str` of numpy


def check_images(images: object, least: int = 1) -> None:
    """Raise UsageError unless `images` is a sequence of RGB images of Pillow, at least `least`."""
    if isinstance(images, str | bytes) or not isinstance(images, Sequence):
        raise UsageError(f"images {type(images).__name__}; must be a list of RGB images of Pillow")
    for i, image in enumerate(images):
        if not isinstance(image, Image.Image) or image.mode != "RGB":
            kind = f"an image of mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__
            raise UsageError(f"images: item {i} is {kind}; must be an RGB image of Pillow")
    if len(images) < least:
        raise UsageError(NO_IMAGES)


def check_pairs(images: int, texts: int, what: str = "texts") -> None:
    """Raise UsageError unless there is one text for each image."""
    if images != texts:
        raise UsageError(f"{_count(images, 'images')} and {_count(texts, what)}; counts must match")


def check_head(head: str) -> None:
    """Raise UsageError for an unknown head."""
    if head not in ("itm", "itc", "both"):
        raise UsageError(f"head '{head}'; must be itm, itc or both")


def check_on_error(on_error: str) -> None:
    """Raise UsageError for an unknown `OnError`."""
    if on_error not in get_args(OnError):
        raise UsageError(f"on_error '{on_error}'; must be raise or record")


def image_key(image: Any, index: int) -> str:  # Any: any value a user passes is checked
    """Name of an image in results and errors: its path, or its index."""
    if isinstance(image, Mapping):
        path = image.get("path")
        return image_key(path, index) if path else str(index)
    return os.fspath(image).replace(os.sep, "/") if isinstance(image, str | os.PathLike) else str(index)


def open_image(image: Any, key: str) -> Image.Image:  # Any: any value a user passes is checked
    """Open an `ImageLike` as RGB; one picture has the same pixels in every form. Raises UnreadableImage."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
        if not isinstance(image, bytes | bytearray | memoryview | str | os.PathLike):
            raise UnreadableImage(key, "a mapping without an image; must have 'bytes' (bytes) or 'path'")
    if isinstance(image, str) and not image:
        raise UnreadableImage(key, "an empty file name")
    if isinstance(image, str) and _URL.match(image):
        raise UnreadableImage(key, "is a URL; download it and pass a path or bytes")
    if isinstance(image, Image.Image):
        return from_pil(image, key)
    if hasattr(image, "is_floating_point"):
        return from_array(_tensor_values(image, key), key, True)
    if hasattr(image, "ndim") and not isinstance(image, memoryview):
        return from_array(np.asarray(image), key)
    if not (isinstance(image, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(image, "read")):
        raise UnreadableImage(key, f"unsupported image type {type(image).__name__}; pass {ACCEPTED}")
    return read(image, key=key)


def _tensor_values(tensor: Any, key: str) -> NDArray[Any]:
    try:
        values = tensor.detach().cpu()
        array: NDArray[Any] = values.float().numpy() if values.is_floating_point() else values.numpy()
    except (RuntimeError, TypeError) as error:  # without values, sparse or quantized
        raise UnreadableImage(key, f"tensor without plain values ({str(error).split('.')[0]})") from error
    return array


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


def open_all(images: Any) -> list[Image.Image]:  # Any: any value a user passes is checked
    """Open one image or several, all of which must be readable. Raises UsageError if there are none."""
    opened = [open_image(image, str(i)) for i, image in enumerate(as_batch(images)[1])]
    if not opened:
        raise UsageError(NO_IMAGES)
    return opened


def open_batches(images: Iterable[Any], size: int, on_error: OnError, side: int) -> Iterator[Opened]:
    """Open a stream of images, `size` at a time, each with its key; shrunk to `side`, so that they need little memory.

    A model that computes with this size returns the same for them as for the full size.
    """
    batch: Opened = []
    for i, image in enumerate(images):
        batch.append(_open_or_record(image, image_key(image, i), on_error, side))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _open_or_record(image: Any, key: str, on_error: OnError, side: int) -> tuple[str, Image.Image | ErrorResult]:
    try:
        return key, shrink(open_image(image, key), side)
    except UnreadableImage as error:
        if on_error == "raise":
            raise
        return key, ErrorResult(key, type(error).__name__, error.reason)


def pair_questions(
    images: Sequence[Image.Image], questions: str | Iterable[str]
) -> tuple[Sequence[Image.Image], Sequence[str]]:
    """Images and questions of equal number: a single one of either is repeated for all of the other."""
    questions = as_texts(questions, "questions")
    if len(images) == 1:
        return [*images] * len(questions), questions
    if len(questions) == 1:
        return images, questions * len(images)
    check_pairs(len(images), len(questions), "questions")
    return images, questions


def _count(number: int, plural: str) -> str:
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"
