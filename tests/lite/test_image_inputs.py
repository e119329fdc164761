"""One picture has the same pixels in every form; other values are refused."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from blip_lite import load
from blip_lite.decoding import make_decoding
from blip_lite.errors import BlipError, UnreadableImage, UsageError
from blip_lite.image_inputs import as_batch, open_image, text_list
from blip_lite.model import Model

ASTRONAUT = Path(__file__).parents[2] / "src/blip/assets/examples/astronaut.jpg"


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


@pytest.fixture
def sideways(tmp_path: Path) -> Path:
    """A picture stored sideways, with EXIF orientation 6, as a phone held upright writes it."""
    path = tmp_path / "sideways.png"
    image = Image.open(ASTRONAUT).resize((40, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


def read_file(path: Path) -> io.BytesIO:
    file = io.BytesIO(path.read_bytes())
    file.read()
    return file


FORMS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file": lambda path: io.BytesIO(path.read_bytes()),
    "file at its end": read_file,
    "PIL": Image.open,
    "PIL converted": lambda path: Image.open(path).convert("RGB"),
    "PIL transposed": lambda path: ImageOps.exif_transpose(Image.open(path)),
    "array": lambda path: np.asarray(open_image(path, "")),
    "array, channels first": lambda path: np.asarray(open_image(path, "")).transpose(2, 0, 1),
    "array, float": lambda path: np.asarray(open_image(path, "")) / 255,
    "array, float32": lambda path: (np.asarray(open_image(path, "")) / 255).astype(np.float32),
    "array, with alpha": lambda path: np.asarray(open_image(path, "").convert("RGBA")),
    "tensor": lambda path: torch.from_numpy(np.array(open_image(path, ""))).permute(2, 0, 1),
    "tensor, channels last": lambda path: torch.from_numpy(np.array(open_image(path, ""))),
    "tensor, float": lambda path: torch.from_numpy(np.array(open_image(path, ""))).permute(2, 0, 1) / 255,
    "tensor, gradient": lambda path: (torch.from_numpy(np.array(open_image(path, ""))) / 255).requires_grad_(),
    "row": lambda path: {"bytes": path.read_bytes(), "path": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_has_the_same_pixels_in_every_form(form: str, sideways: Path) -> None:
    expected = open_image(sideways, "")
    assert expected.size == (24, 40)
    image = FORMS[form](sideways)
    assert as_batch(image)[0]
    assert np.array_equal(open_image(image, ""), expected)


@pytest.mark.parametrize("shape", [(24, 40), (24, 40, 1), (1, 24, 40)])
def test_grey_arrays_equal_grey_files(shape: tuple[int, ...]) -> None:
    grey = np.arange(24 * 40, dtype=np.uint16).astype(np.uint8).reshape(24, 40)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    assert np.array_equal(open_image(grey.reshape(shape), ""), open_image(file, ""))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((4, 4, 3), 200.0), "values from 200 to 200; float values must be from 0 to 1"),
        (np.linspace(-2.1, 2.6, 48).reshape(4, 4, 3), "values from -2.1 to 2.6; float values must be from 0 to 1"),
        (torch.full((3, 4, 4), -1.0), "values from -1 to -1; float values must be from 0 to 1"),
        (np.full((4, 4, 3), np.nan), "with NaN; float values must be from 0 to 1"),
        (np.full((4, 4, 3), np.inf), "values from inf to inf"),
        (np.zeros((4, 4, 3), np.int64), r"array int64 \[4, 4, 3\]; must be uint8, or float from 0 to 1"),
        (np.zeros((4, 4, 3), np.uint16), "must be uint8"),
        (np.zeros((4, 4, 3), bool), "must be uint8"),
        (np.zeros((5, 6, 2), np.uint8), "with 1, 3 or 4 channels"),
        (np.zeros(4, np.uint8), "with 1, 3 or 4 channels"),
        (np.zeros((0, 4, 3), np.uint8), "image of 4x0 pixels"),
        (np.zeros((1, 1, 3), np.uint8), "image of 1x1 pixels; at least 2 are needed"),
        (Image.new("RGB", (0, 0)), "image of 0x0 pixels"),
        (Image.new("RGB", (1, 1)), "image of 1x1 pixels; at least 2 are needed"),
        (b"", r"empty file \(0 bytes\)"),
        ("https://example.org/a.jpg", "is a URL; download it and pass a path or bytes"),
        (io.StringIO("text"), "file object"),
        (None, "unsupported image type NoneType; pass a path, bytes, file object, PIL image, array or tensor"),
        (3, "unsupported image type int"),
    ],
)
def test_other_values_are_refused_with_a_reason(image: Any, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        open_image(image, "photo")


def test_a_file_of_one_pixel_is_refused_like_an_array() -> None:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    with pytest.raises(UnreadableImage, match="image of 1x1 pixels; at least 2 are needed"):
        open_image(file, "photo")


def test_closed_and_cut_files_are_refused(tmp_path: Path) -> None:
    shutil.copy(ASTRONAUT, tmp_path / "cut.jpg")
    with (tmp_path / "cut.jpg").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(UnreadableImage, match="file object cannot be read"):
        open_image(file, "closed")
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(UnreadableImage, match="PIL image cannot be loaded"):
        open_image(image, "cut")


@pytest.mark.parametrize("images", [None, 3, 2.5])
def test_values_that_are_not_iterable_are_refused(images: Any) -> None:
    with pytest.raises(UsageError, match="must be an image or several"):
        as_batch(images)


def test_lists_of_texts() -> None:
    assert text_list({"b", "a"}, "answers") == ["a", "b"] == text_list(np.array(["a", "b"]), "answers")
    for texts, message in [
        ("yes,no", "answers 'yes,no'; must be a list of texts"),
        ({"yes": 1}, "must be a list of texts"),
        (None, "answers None; must be a list of texts"),
        (["yes", 3], "answers: item 1 is int; must be str"),
        ([], "no answers given; at least one is needed"),
    ]:
        with pytest.raises(UsageError, match=message):
            text_list(texts, "answers")  # type: ignore[arg-type]


def test_the_default_minimum_length_follows_a_small_maximum() -> None:
    assert (make_decoding(max_length=4).min_length, make_decoding().min_length) == (4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams 0: must be an integer from 1 to 1000"),
        ({"beams": 2.5}, "beams 2.5: must be an integer"),
        ({"beams": True}, "beams True: must be an integer"),
        ({"num_captions": 0}, "num_captions 0: must be an integer from 1 to 1000"),
        ({"min_length": 30}, r"min_length 30: must be at most max_length \(20\)"),
        ({"max_length": -1}, "max_length -1: must be an integer of at least 1"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty nan: must be a finite number above 0"),
        ({"prompt": ["a picture of", "a photo of"]}, "must be one text"),
        ({"seed": "1"}, "seed '1': must be an integer of at least 0"),
        ({"batch_size": 0}, "batch_size 0: must be an integer of at least 1"),
        ({"on_error": "skip"}, "on_error 'skip'; must be raise or record"),
    ],
)
def test_invalid_options_of_captions_are_refused(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BlipError, match=message):
        model.caption(ASTRONAUT, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.match(ASTRONAUT, None), "texts None; must be a list of texts"),
        (lambda model: model.match(ASTRONAUT, [1]), "texts: item 0 is int; must be str"),
        (lambda model: model.match(ASTRONAUT, "a", max_text_length=0), "max_text_length 0: must be an integer"),
        (lambda model: model.rank("a", [ASTRONAUT], rerank=-1), "rerank -1: must be an integer of at least 0"),
        (lambda model: model.embed_text(b"a"), "must be a list of texts"),
        (lambda model: model.caption(7), "images int; must be an image or several"),
    ],
)
def test_invalid_arguments_of_other_calls_are_refused(model: Model, call: Callable[[Model], Any], message: str) -> None:
    with pytest.raises(BlipError, match=message):
        call(model)
