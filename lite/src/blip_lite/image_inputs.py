"""Images as users give them: of any kind, one or many, opened in batches; with texts or questions beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blip_lite.errors import UnreadableImage, UsageError
from blip_lite.image import read, to_rgb
from blip_lite.results import ErrorResult


class Pixels(Protocol):
    """An array of numpy, or a tensor."""

    @property
    def ndim(self) -> int: ...


# A mapping is a row of a Hugging Face image column: {"bytes": ..., "path": ...}, either may be None.
ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Pixels | Mapping[str, Any]
OnError = Literal["raise", "record"]
Opened = list[tuple[str, Image.Image | ErrorResult]]  # key and picture, or what went wrong


def as_batch(images: Any) -> tuple[bool, Iterable[Any]]:
    """Whether it is one image, and the images. An array or tensor with a batch dimension is many."""
    if isinstance(images, str | os.PathLike | bytes | Image.Image | Mapping) or hasattr(images, "read"):
        return True, [images]
    if hasattr(images, "ndim"):
        return images.ndim == 3, [images] if images.ndim == 3 else list(images)
    return False, images


def texts_of(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list of at least one. Raises UsageError."""
    lines = [texts] if isinstance(texts, str) else list(texts)
    if not lines:
        raise UsageError("texts; must be at least one")
    return lines


def check_pairs(images: int, texts: int) -> None:
    """Raises UsageError where row i of the one has no row i of the other."""
    if images != texts:
        raise UsageError(f"{images} images and {texts} texts; pairs must be as many of both")


def check_head(head: str) -> None:
    """Raises UsageError for a head that no model has."""
    if head not in ("itm", "itc", "both"):
        raise UsageError(f"head '{head}'; must be itm, itc or both")


def key_of(image: Any, index: int) -> str:
    """The name of an image: its path, or its number."""
    if isinstance(image, Mapping):
        path = image.get("path")
        return key_of(path, index) if path else str(index)
    return os.fspath(image).replace(os.sep, "/") if isinstance(image, str | os.PathLike) else str(index)


def open_image(image: Any, key: str) -> Image.Image:
    """The picture of an `ImageLike`. Raises UnreadableImage."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path") or b""
    if hasattr(image, "is_floating_point"):
        image = _from_tensor(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UnreadableImage(key, f"array {image.dtype} {list(image.shape)}; must be uint8 [H, W, 3]")
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not (isinstance(image, str | os.PathLike | bytes) or hasattr(image, "read")):
        raise UnreadableImage(key, f"{type(image).__name__} is no image; give a path, bytes, a picture or an array")
    return read(image, key=key)


def _from_tensor(image: Any) -> NDArray[np.uint8]:
    """A tensor [3, H, W], uint8 or float in [0, 1], as an array [H, W, 3]."""
    values = image.detach().cpu()
    values = values.float().numpy() * 255 if values.is_floating_point() else values.numpy()
    pixels: NDArray[np.uint8] = values.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def open_all(images: Any) -> list[Image.Image]:
    """The pictures of one image or several that must all be readable. Raises UsageError where there is none."""
    pictures = [open_image(image, str(i)) for i, image in enumerate(as_batch(images)[1])]
    if not pictures:
        raise UsageError("images; must be at least one")
    return pictures


def batches(images: Iterable[Any], keys: Iterable[str] | None, size: int, on_error: OnError) -> Iterator[Opened]:
    """The opened images of a stream, `size` at a time, each with its key."""
    names = iter(keys) if keys is not None else None
    batch: Opened = []
    for i, image in enumerate(images):
        key = next(names) if names is not None else key_of(image, i)
        batch.append((key, _open_or_record(image, key, on_error)))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _open_or_record(image: Any, key: str, on_error: OnError) -> Image.Image | ErrorResult:
    try:
        return open_image(image, key)
    except UnreadableImage as error:
        if on_error == "raise":
            raise
        return ErrorResult(key, type(error).__name__, error.reason)


def pairs_of(images: Iterable[Any], questions: str | Sequence[str]) -> tuple[list[Image.Image], list[int], list[str]]:
    """Distinct pictures, and for each question the number of its picture; one image or question goes with all others.

    An image given twice is opened each time but is one picture where it is the same object.
    """
    pictures, asked = open_all(images), [questions] if isinstance(questions, str) else list(questions)
    pictures = pictures * len(asked) if len(pictures) == 1 else pictures
    asked = asked * len(pictures) if len(asked) == 1 else asked
    if len(pictures) != len(asked):
        raise UsageError(f"{len(pictures)} images and {len(asked)} questions; must be as many, or one of either")
    distinct = {id(picture): picture for picture in pictures}  # each image is encoded once
    numbers = {key: i for i, key in enumerate(distinct)}
    return list(distinct.values()), [numbers[id(picture)] for picture in pictures], asked
