from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from blip.data.transforms import TrainTransform, crop_and_flip, crop_box
from blip.io.image import prepare
from blip_lite.config import CLIP_MEAN, CLIP_STD
from tests.oracle_files import tensors, values

PICTURE = Image.fromarray(tensors("transforms")["src.rgb_gradient_120x90"].numpy())
TRANSFORM = TrainTransform(size=48, min_scale=0.5, mean=CLIP_MEAN, std=CLIP_STD)


@pytest.mark.parametrize(("seed", "min_scale", "box"), values("transforms")["crop_params"], ids=str)
def test_crops_are_those_of_the_original(seed: int, min_scale: float, box: list[int]) -> None:
    assert list(crop_box(120, 90, min_scale, torch.Generator().manual_seed(seed))) == box


def test_an_image_too_thin_for_any_crop_is_cropped_at_its_centre() -> None:
    assert list(crop_box(200, 4, 0.5, torch.Generator().manual_seed(0))) == values("transforms")["crop_params_thin"]
    assert crop_box(4, 200, 0.5, torch.Generator().manual_seed(0)) == (97, 0, 5, 4)


def test_crops_without_generator_draw_from_the_global_one() -> None:
    torch.manual_seed(3)
    assert crop_box(120, 90, 0.5) == crop_box(120, 90, 0.5, torch.Generator().manual_seed(3))


def test_cropped_and_flipped_pixels_equal_the_original() -> None:
    generator = torch.Generator().manual_seed(3)
    for expected in tensors("transforms")["train_crop_flip_seed3"]:
        np.testing.assert_array_equal(np.asarray(crop_and_flip(PICTURE, 48, 0.5, generator)), expected.numpy())


def test_the_transform_is_crop_flip_and_normalisation_without_rand_augment() -> None:
    plain = replace(TRANSFORM, rand_augment=None)
    expected = crop_and_flip(PICTURE, 48, 0.5, torch.Generator().manual_seed(7))
    assert torch.equal(plain(PICTURE, 7), prepare([expected], size=48, mean=CLIP_MEAN, std=CLIP_STD)[0])


def test_the_transform_depends_on_the_seed_alone() -> None:
    first = [TRANSFORM(PICTURE, seed) for seed in range(4)]
    torch.manual_seed(1)
    np.random.seed(1)
    repeated = [TRANSFORM(PICTURE, seed) for seed in range(4)]
    assert torch.equal(torch.stack(first), torch.stack(repeated))
    assert not torch.equal(first[0], first[1])


def test_the_transform_leaves_global_generators_alone() -> None:
    before, numbers = torch.get_rng_state(), np.random.get_state()[2]
    TRANSFORM(PICTURE, 2**62 + 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[2] == numbers


def test_without_flip_no_picture_is_mirrored() -> None:
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3)))
    plain = replace(TRANSFORM, rand_augment=None)
    mirrored = [bool(plain(ramp, seed)[0, 0, 0] > plain(ramp, seed)[0, 0, -1]) for seed in range(20)]
    assert 3 < sum(mirrored) < 17
    assert not any((p := replace(plain, flip=False)(ramp, s))[0, 0, 0] > p[0, 0, -1] for s in range(20))


def test_grey_pictures_become_three_channels() -> None:
    assert TRANSFORM(PICTURE.convert("L"), 0).shape == (3, 48, 48)


def test_an_image_becomes_an_array_once(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[tuple[int, int]] = []
    real = Image.Image.tobytes
    monkeypatch.setattr(Image.Image, "tobytes", lambda self, *args: converted.append(self.size) or real(self, *args))
    monkeypatch.setattr(Image, "fromarray", lambda *args: pytest.fail("converted back"))
    monkeypatch.setattr(Image.Image, "convert", lambda *args: pytest.fail("converted to RGB again"))
    for seed in range(10):
        TRANSFORM(PICTURE, seed)
    assert converted == [(48, 48)] * 10
