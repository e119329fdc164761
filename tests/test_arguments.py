"""Every invalid argument of the Python API is a `BlipError` that names the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import blip
import blip_lite
from blip_lite.errors import BlipError
from blip_lite.image import read
from blip_lite.model import Model

PHOTO = Path(__file__).parents[1] / "examples/chelsea.png"


@pytest.fixture(scope="module")
def model() -> Model:
    return blip.load_random()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return read(PHOTO)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device 'gpu'; must be auto, cpu, cuda, cuda:N or mps"),
        ({"device": "cpu:x"}, "device 'cpu:x'; must be auto"),
        ({"device": 5}, "device '5'; must be auto"),
        ({"dtype": "fp8"}, "dtype 'fp8'; must be auto, fp32, bf16, fp16, int8"),
        ({"dtype": torch.uint8}, "dtype 'torch.uint8'; must be auto"),
        ({"threads": 0}, "threads 0: must be an integer of at least 1"),
        ({"threads": "2"}, "threads '2': must be an integer of at least 1"),
        ({"image_size": 0}, "image_size 0: must be an integer from 1 to 4096"),
        ({"image_size": 384.0}, "image_size 384.0: must be an integer from 1 to 4096"),
        ({"image_size": 100}, "must be a multiple of patch_size"),
        ({"strict": "no"}, "strict 'no': must be True or False"),
        ({"compile": "no"}, "compile 'no': must be True or False"),
        ({"offline": "yes"}, "offline 'yes': must be True or False"),
        ({"cache_dir": 5}, "cache_dir 5; must be a name or path"),
        ({"name": 5}, "model 5; must be a name or path"),
        ({"name": ""}, "model ''; must be a name or path"),
        ({"name": b"tiny"}, "model b'tiny'; must be a name or path"),
        ({"name": "a\0b"}, "must be a name or path"),
    ],
)
def test_arguments_of_load(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BlipError, match=message):
        blip.load(**options)


def test_torch_devices_and_dtypes_are_accepted() -> None:
    backend = blip.load("random-tiny", device=torch.device("cpu"), dtype=torch.bfloat16).backend
    assert (backend.device, backend.dtype) == (torch.device("cpu"), torch.bfloat16)
    assert backend.to("cpu", "fp32").dtype == torch.float32
    with pytest.raises(BlipError, match="device 'gpu'; must be auto"):
        backend.to("gpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: blip_lite.load(threads=0), "threads 0: must be an integer of at least 1"),
        (lambda: blip_lite.load(threads=1.5), "threads 1.5: must be"),  # type: ignore[arg-type]
        (lambda: blip_lite.load(7), "folder 7; must be a name or path"),  # type: ignore[arg-type]
        (lambda: blip_lite.load(threads=1).caption(PHOTO, generator=torch.Generator()), "generator: not supported"),
        (lambda: blip.load_random(["vqa"]), "must be one of features, caption"),  # type: ignore[arg-type]
        (lambda: blip.load_random(seed=1.5), "seed 1.5: must be an integer"),  # type: ignore[arg-type]
        (lambda: blip.info(None), "model None; must be a name or path"),  # type: ignore[arg-type]
        (lambda: blip.download(5), "model 5; must be a name or path"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_other_functions(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(BlipError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, _: m.caption(PHOTO, sample="no"), "sample 'no': must be True or False"),
        (lambda m, _: m.caption(PHOTO, beams=10**6), "beams 1000000: must be an integer from 1 to 1000"),
        (lambda m, _: m.caption(PHOTO, sample=True, num_captions=10**6), "num_captions 1000000: must be"),
        (lambda m, _: m.caption(PHOTO, generator=5), "generator 5; must be a torch.Generator or None"),
        (lambda m, _: list(m.caption_iter([PHOTO], {"beams": 3})), "must be Greedy, Beam or Nucleus"),
        (lambda m, i: m.caption_batch([i], keys=["a", "b"]), "1 image and 2 keys; counts must match"),
        (lambda m, i: m.caption_batch([i], keys=[5]), "keys: item 0 is int; must be str"),
        (lambda m, i: m.caption_batch(i), "images Image; must be a list of RGB images"),
        (lambda m, _: m.caption_batch([str(PHOTO)]), "images: item 0 is str; must be an RGB image"),
        (lambda m, i: m.caption_batch([i.convert("RGBA")]), "item 0 is an image of mode RGBA; must be an RGB image"),
        (lambda m, _: m.embed_image_batch([]), "no images given"),
        (lambda m, _: m.match_batch([], ["a"]), "no images given"),
        (lambda m, i: m.match_batch([i], "a cat"), "texts 'a cat'; must be a list of texts"),
        (lambda m, i: m.match_batch([i], []), "no texts given"),
        (lambda m, _: m.match(PHOTO, "a", pairs="no"), "pairs 'no': must be True or False"),
        (lambda m, _: m.embed_image(PHOTO, projected="no"), "projected 'no': must be True or False"),
        (lambda m, _: m.embed_text("a", tokens=1), "tokens 1: must be True or False"),
        (lambda m, _: m.caption({PHOTO}), "a set has no order, must be a list"),
        (lambda m, _: m.caption({"a": 1}), "a mapping without an image; must have 'bytes'"),
        (lambda m, _: m.caption(""), "an empty file name"),
        (lambda m, _: m.caption(torch.ones(3, 8, 8, device="meta")), "tensor without plain values"),
        (lambda m, _: m.save(None), "folder None; must be a name or path"),
    ],
)
def test_arguments_of_models(
    call: Callable[[Model, Image.Image], Any], message: str, model: Model, image: Image.Image
) -> None:
    with pytest.raises(BlipError, match=message):
        call(model, image)


def test_generators_of_images_and_arrays_of_texts_are_accepted(model: Model) -> None:
    assert len(model.caption(path for path in [PHOTO, PHOTO])) == 2
    assert model.match(PHOTO, np.array(["a", "b"])).itm is not None
    answer = blip.load_random("vqa").answer(PHOTO, "what?", answers=np.array(["yes", "no"]))
    assert type(answer.text) is str
