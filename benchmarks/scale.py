"""The plan of docs/scale.md: CapFilt over 129 million images, derived from the sizes of the networks.

    python -m benchmarks.scale

Prints the tables of the page (a test compares them). Work per image is counted exactly, a multiplication and addition
as two operations; rates of GPUs are the vendors' with the share below, which is an assumption. Sources are on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

IMAGES = 129e6  # the larger of the paper's pre-training sets
STEPS, WEB_TOKENS = 20, 14  # of a generated caption with its prompt; of a web text
SIZE = 384  # input of the published captioner and retrieval models
TEXT = 768  # width of the text network, of 12 layers
VOCABULARY = 30_524
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.4, 0.7  # of the vendor's rates
CORE_IMAGES = 290  # read, hashed and resized to 384 pixels per second and core, measured
IMAGE_BYTES = 64_000  # JPEG of quality 95 with a shorter side of 384 pixels, measured
ROW_BYTES = 100  # of a score file with two texts per image, measured


@dataclass(frozen=True)
class Vision:
    """Size of an image encoder."""

    name: str
    width: int
    layers: int


@dataclass(frozen=True)
class Gpu:
    """Vendor's dense bfloat16 operations and bytes per second, and an assumed price in USD per hour."""

    name: str
    operations: float
    bandwidth: float
    price: float


VISIONS = (Vision("ViT-B", 768, 12), Vision("ViT-L", 1024, 24))
GPUS = (Gpu("A100", 312e12, 2.0e12, 2.0), Gpu("H100", 989e12, 3.35e12, 3.5))


def tokens(size: int = SIZE) -> int:
    """Return the number of image tokens, class token included."""
    return (size // 16) ** 2 + 1


def encode(vision: Vision) -> float:
    """Return the operations of the image encoder, and of the keys and values of the text network."""
    t, d = tokens(), vision.width
    return vision.layers * (24 * t * d**2 + 4 * t**2 * d) + 1536 * (t - 1) * d + 12 * 4 * t * d * TEXT


def text_token(length: int) -> float:
    """Return the operations of a text token in a text of this length: 12 layers with attention to the image."""
    return 12 * (28 * TEXT**2 + 4 * tokens() * TEXT + 4 * length * TEXT)


def image_operations(vision: Vision, *, shared: bool) -> float:
    """Return the operations per image: caption it, score both texts; `shared` if both use one encoding."""
    caption = STEPS * (text_token(STEPS) + 2 * TEXT * VOCABULARY + 2 * TEXT**2)
    score = (STEPS + WEB_TOKENS) * text_token(STEPS)
    return (1 if shared else 2) * encode(vision) + caption + score


def image_reads() -> float:
    """Return the bytes of keys and values that the steps of a caption read, in bfloat16."""
    return STEPS * 12 * 2 * tokens() * TEXT * 2


def images_per_second(vision: Vision, gpu: Gpu, *, shared: bool) -> float:
    compute = image_operations(vision, shared=shared) / (COMPUTE_SHARE * gpu.operations)
    return 1 / (compute + image_reads() / (BANDWIDTH_SHARE * gpu.bandwidth))


def gpu_table() -> Iterator[str]:
    yield "| models | GPU | GFLOP per image | images/s per GPU | GPU-hours | cores per GPU | read per GPU | cost |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for vision in VISIONS:
        for shared in (False, True):
            for gpu in GPUS:
                rate = images_per_second(vision, gpu, shared=shared)
                hours = IMAGES / rate / 3600
                yield (
                    f"| {vision.name}, {'one encoding' if shared else 'two encodings'} | {gpu.name} "
                    f"| {image_operations(vision, shared=shared) / 1e9:.0f} | {rate:,.0f} | {hours:,.0f} "
                    f"| {rate / CORE_IMAGES:.1f} | {rate * IMAGE_BYTES / 1e6:.0f} MB/s | {hours * gpu.price:,.0f} USD |"
                )


def data_table() -> Iterator[str]:
    rows = {
        "input tars": f"{IMAGES * IMAGE_BYTES / 1e12:.1f} TB, {IMAGES / 1e4:,.0f} tars of {IMAGE_BYTES / 1e2:.0f} MB",
        "score files": f"{2 * IMAGES * ROW_BYTES / 1e9:.0f} GB, {2e4 * ROW_BYTES / 1e6:.0f} MB per tar",
        "selected tars, if 60 % of the images are kept": f"{0.6 * IMAGES * IMAGE_BYTES / 1e12:.1f} TB",
    }
    yield "| data | size |"
    yield "| --- | --- |"
    yield from (f"| {name} | {value} |" for name, value in rows.items())


def main() -> None:
    print("\n".join([*gpu_table(), "", *data_table()]))


if __name__ == "__main__":
    main()
