"""Images in decoded batches, read ahead, and their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from blip.cli import options as o
from blip.engine.memory import retry_halved
from blip_lite.errors import UnreadableImage

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip.io.samples import Sample
    from blip_lite.model import Model

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decoded:
    """An input as RGB: for each model of the run an image, not larger than what it computes with.

    The models resize to the same pixels, so results are those of the full size; `size` is the input's width and height.
    """

    sample: Sample
    images: tuple[Image, ...]
    size: tuple[int, int]

    @property
    def image(self) -> Image:
        return self.images[0]


DecodedBatch = Sequence[Decoded]
Describe = Callable[[DecodedBatch], Sequence[list[Record]]]  # returns the records of each image


class Describer(Protocol):
    """A `Describe` that opens its models itself. Small and picklable until then, to be sent to a process."""

    schema: str  # of its records
    run: o.Run

    def load(self, threads: int | None = None) -> Sequence[Model]:
        """Open the models; return those that read images, the main one first.

        threads: number of CPU threads unless --threads is given.
        """
        ...

    def __call__(self, batch: DecodedBatch) -> Sequence[list[Record]]: ...


def describe_all(
    samples: Sequence[Sample], describe: Describe, models: Sequence[Model], flags: o.Run, *, full_size: bool = False
) -> Iterator[list[tuple[Sample, list[Record] | UnreadableImage]]]:
    """Yield batches of inputs in order, each with its records or the error of its image.

    models: those that read the images; the first determines the batch size. full_size: do not shrink the images.
    """
    sides = [] if full_size else [model.config.vision.image_size for model in models]
    for batch in _read(samples, flags, flags.default_batch_size(models[0]), sides):
        good = [decoded for _, decoded in batch if isinstance(decoded, Decoded)]
        results = iter(retry_halved(describe, good))
        yield [(sample, next(results) if isinstance(decoded, Decoded) else decoded) for sample, decoded in batch]


def _read(
    inputs: Sequence[Sample], flags: o.Run, size: int, sides: Sequence[int]
) -> Iterator[list[tuple[Sample, Decoded | UnreadableImage]]]:
    """Yield batches of decoded inputs or of the errors in their place; threads read two batches ahead.

    They shrink images to `sides`, so that those waiting need little memory, whatever their size.
    """
    from blip.io.ordered_map import batched, ordered_map
    from blip_lite.image import shrink

    max_pixels = int(flags.max_megapixels * 1e6)

    def read(sample: Sample) -> Decoded | UnreadableImage:
        try:
            image = sample.read(max_pixels=max_pixels)
        except UnreadableImage as error:
            return error
        return Decoded(sample, tuple(shrink(image, side) for side in sides) or (image,), image.size)

    decoded = ordered_map(read, inputs, ahead=2 * size, workers=flags.workers or o.default_workers())
    return batched(zip(inputs, decoded, strict=True), size)
