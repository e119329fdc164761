"""Images as users pass them: of any kind, one or several, opened in batches; with their texts or questions."""

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
    """A numpy array uint8 [H, W, 3], or a torch tensor [3, H, W], uint8 or float in [0, 1]."""

    @property
    def ndim(self) -> int: ...


# A mapping is a row of a Hugging Face image column: {"bytes": ..., "path": ...}, either may be None.
ImageLike = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Pixels | Mapping[str, Any]
OnError = Literal["raise", "record"]
Opened = list[tuple[str, Image.Image | ErrorResult]]  # key, and the image or why it cannot be read


def as_batch(images: Any) -> tuple[bool, Iterable[Any]]:  # Any: any value a user passes is checked
    """Whether `images` is a single image, and the images. An array or tensor with a batch dimension is several."""
    if isinstance(images, str | os.PathLike | bytes | Image.Image | Mapping) or hasattr(images, "read"):
        return True, [images]
    if hasattr(images, "ndim"):
        return images.ndim == 3, [images] if images.ndim == 3 else list(images)
    return False, images


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list. Raises UsageError if there are none."""
    result = [texts] if isinstance(texts, str) else list(texts)
    if not result:
        raise UsageError("no texts given; at least one is needed")
    return result


def check_pairs(images: int, texts: int, what: str = "texts") -> None:
    """Raise UsageError unless there is one text for each image."""
    if images != texts:
        raise UsageError(f"{_count(images, 'images')} and {_count(texts, what)}; counts must match")


def check_head(head: str) -> None:
    """Raise UsageError for an unknown head."""
    if head not in ("itm", "itc", "both"):
        raise UsageError(f"head '{head}'; must be itm, itc or both")


def image_key(image: Any, index: int) -> str:  # Any: any value a user passes is checked
    """Name of an image in results and errors: its path, or its index."""
    if isinstance(image, Mapping):
        path = image.get("path")
        return image_key(path, index) if path else str(index)
    return os.fspath(image).replace(os.sep, "/") if isinstance(image, str | os.PathLike) else str(index)


def open_image(image: Any, key: str) -> Image.Image:  # Any: any value a user passes is checked
    """Open an `ImageLike` as RGB. Raises UnreadableImage."""
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
        kind = type(image).__name__
        raise UnreadableImage(key, f"unsupported image type {kind}; pass a path, bytes, PIL image or array")
    return read(image, key=key)


def _from_tensor(image: Any) -> NDArray[np.uint8]:
    """A tensor [3, H, W], uint8 or float in [0, 1], as an array [H, W, 3]."""
    values = image.detach().cpu()
    values = values.float().numpy() * 255 if values.is_floating_point() else values.numpy()
    pixels: NDArray[np.uint8] = values.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def open_all(images: Any) -> list[Image.Image]:  # Any: any value a user passes is checked
    """Open one image or several, all of which must be readable. Raises UsageError if there are none."""
    opened = [open_image(image, str(i)) for i, image in enumerate(as_batch(images)[1])]
    if not opened:
        raise UsageError("no images given; at least one is needed")
    return opened


def open_batches(images: Iterable[Any], size: int, on_error: OnError) -> Iterator[Opened]:
    """Open a stream of images, `size` at a time, each with its key."""
    batch: Opened = []
    for i, image in enumerate(images):
        batch.append(_open_or_record(image, image_key(image, i), on_error))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _open_or_record(image: Any, key: str, on_error: OnError) -> tuple[str, Image.Image | ErrorResult]:
    try:
        return key, open_image(image, key)
    except UnreadableImage as error:
        if on_error == "raise":
            raise
        return key, ErrorResult(key, type(error).__name__, error.reason)


def pair_questions(
    images: Sequence[Image.Image], questions: str | Sequence[str]
) -> tuple[Sequence[Image.Image], Sequence[str]]:
    """Images and questions of equal number: a single one of either is repeated for all of the other."""
    questions = [questions] if isinstance(questions, str) else list(questions)
    if len(images) == 1:
        return [*images] * len(questions), questions
    if len(questions) == 1:
        return images, questions * len(images)
    check_pairs(len(images), len(questions), "questions")
    return images, questions


def _count(number: int, plural: str) -> str:
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"
