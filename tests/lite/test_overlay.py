"""Scaling, smoothing, colours and blending of heat-maps."""

from __future__ import annotations

import time

import numpy as np
from PIL import Image

from blip_lite.overlay import BLUR, blur, heat, jet, overlay, scaled, unit


def test_a_map_comes_at_the_photos_size_between_0_and_1() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4) * 1e-6
    values = heat(grid, (50, 30))
    assert values.shape == (30, 50) and values.dtype == np.float32
    assert values.min() == 0 and values.max() == 1
    assert np.unravel_index(values.argmax(), values.shape) == (29, 49)


def test_the_peak_stays_where_it_was() -> None:
    grid = np.zeros((7, 7), dtype=np.float32)
    grid[2, 5] = 1
    y, x = np.unravel_index(heat(grid, (700, 140)).argmax(), (140, 700))
    assert 40 <= y < 60 and 500 <= x < 600


def test_a_flat_map_leaves_the_photo_as_it_is() -> None:
    photo = Image.effect_noise((40, 30), 80).convert("RGB")
    assert not heat(np.full((3, 3), 0.5, dtype=np.float32), (40, 30)).any()
    assert np.array_equal(np.asarray(overlay(photo, np.zeros((3, 3), dtype=np.float32))), np.asarray(photo))


def test_blur_is_a_gaussian_with_a_mirrored_border() -> None:
    point = np.zeros((41, 2), dtype=np.float32)
    point[20] = 1, 2
    away = np.exp(-0.5 * (np.arange(-20, 21) / 3.0) ** 2)
    away[np.abs(np.arange(-20, 21)) > 12] = 0  # four sigmas
    away /= away.sum()
    assert np.allclose(blur(point, 3.0), np.outer(away, (1, 2)), atol=1e-7)
    assert np.allclose(blur(np.ones((9, 5), dtype=np.float32), 3.0), 1, atol=1e-6)
    assert np.array_equal(blur(point, 0.1), point)


def test_a_map_is_scaled_and_smoothed_as_an_image_would_be() -> None:
    grid = np.random.RandomState(0).rand(7, 9).astype(np.float32)
    large = np.asarray(Image.fromarray(unit(grid)).resize((120, 80), Image.Resampling.BICUBIC))
    smooth = blur(blur(large, BLUR * 120).T, BLUR * 120).T
    assert np.allclose(heat(grid, (120, 80)), unit(smooth), atol=1e-5)


def test_a_large_photo_is_drawn_without_waiting() -> None:
    start = time.process_time()
    heat(np.random.RandomState(0).rand(24, 24).astype(np.float32), (4000, 3000))
    assert time.process_time() - start < 5


def test_jet_is_matplotlibs() -> None:
    # its corners (cm.datad["jet"]) at the steps of a table of 256, as it draws them
    known = {0.0: (0, 0, 0.5), 0.25: (0, 0.504, 1), 0.5: (0.490, 1, 0.478), 0.75: (1, 0.582, 0), 1.0: (0.5, 0, 0)}
    for value, colour in known.items():
        assert np.allclose(jet(np.float32([value]))[0], colour, atol=0.02)


def test_the_hottest_place_is_all_colour_and_the_coldest_all_photo() -> None:
    photo, grid = Image.new("RGB", (64, 64), (10, 200, 30)), np.zeros((2, 2), dtype=np.float32)
    grid[0, 0] = 1
    drawn = np.asarray(overlay(photo, grid))
    values = heat(grid, (64, 64))
    assert tuple(drawn[np.unravel_index(values.argmax(), values.shape)]) == (128, 0, 0)
    assert tuple(drawn[np.unravel_index(values.argmin(), values.shape)]) == (10, 200, 30)


def test_scaling_keeps_the_shape() -> None:
    assert scaled(Image.new("RGB", (200, 100)), 480).size == (480, 240)
    assert scaled(Image.new("RGB", (100, 200)), 50).size == (25, 50)
    assert scaled(Image.new("RGB", (1000, 1)), 50).size == (50, 1)
