"""`Explanation` by tokens, by words and as an image; resizing, smoothing, colours and blending of maps."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from blip_lite.errors import UsageError
from blip_lite.explanation import BLUR, Explanation, blur, draw_overlay, jet, min_max, resize_longer_side, resize_map

MAPS = np.arange(6 * 4, dtype=np.float32).reshape(6, 2, 2)
EXPLANATION = Explanation(
    ("[ENC]", "a", "skate", "##board", ",", "[SEP]"),
    MAPS,
    "gradcam",
    2,
    0.9,
    text="a skateboard,",
    image=Image.new("RGB", (32, 16)),
)


def test_words_join_pieces_and_leave_out_special_tokens() -> None:
    words = EXPLANATION.words()
    assert words.tokens == ("a", "skateboard", ",")
    assert np.array_equal(words.maps, np.stack([MAPS[1], (MAPS[2] + MAPS[3]) / 2, MAPS[4]]))
    assert words.words().tokens == words.tokens


def test_the_mean_leaves_out_special_tokens() -> None:
    assert np.array_equal(EXPLANATION.mean(), MAPS[1:5].mean(axis=0))
    empty = Explanation(("[ENC]", "[SEP]"), MAPS[:2], "gradcam", 0, 0.5)
    assert not empty.mean().any() and empty.words().maps.shape == (0, 2, 2)


def test_a_map_by_index_piece_or_word() -> None:
    assert np.array_equal(EXPLANATION.map_of(0), MAPS[0])
    assert np.array_equal(EXPLANATION.map_of("##board"), MAPS[3])
    assert np.array_equal(EXPLANATION.map_of("skateboard"), (MAPS[2] + MAPS[3]) / 2)
    for wrong in ("dog", 6):
        with pytest.raises(UsageError, match=r"no token .*; must be one of a, skateboard, ,, or an index"):
            EXPLANATION.map_of(wrong)


def test_an_overlay_has_the_requested_size() -> None:
    assert EXPLANATION.overlay("skateboard").size == (32, 16)
    assert EXPLANATION.overlay(size=64).size == (64, 32)
    with pytest.raises(UsageError, match="no image to draw on"):
        Explanation(("a",), MAPS[:1], "gradcam", 0, 0.5).overlay()


def test_record_and_repr_omit_the_maps() -> None:
    assert EXPLANATION.to_dict()["tokens"] == list(EXPLANATION.tokens)
    assert "array" not in repr(EXPLANATION) and "Image" not in repr(EXPLANATION)


def test_a_map_is_resized_to_the_photo_between_0_and_1() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4) * 1e-6
    values = resize_map(grid, (50, 30))
    assert values.shape == (30, 50) and values.dtype == np.float32
    assert values.min() == 0 and values.max() == 1
    assert np.unravel_index(values.argmax(), values.shape) == (29, 49)


def test_the_peak_keeps_its_position() -> None:
    grid = np.zeros((7, 7), dtype=np.float32)
    grid[2, 5] = 1
    y, x = np.unravel_index(resize_map(grid, (700, 140)).argmax(), (140, 700))
    assert 40 <= y < 60 and 500 <= x < 600


def test_a_flat_map_leaves_the_photo_unchanged() -> None:
    photo = Image.effect_noise((40, 30), 80).convert("RGB")
    assert not resize_map(np.full((3, 3), 0.5, dtype=np.float32), (40, 30)).any()
    assert np.array_equal(np.asarray(draw_overlay(photo, np.zeros((3, 3), dtype=np.float32))), np.asarray(photo))


def test_blur_is_a_gaussian_with_a_mirrored_border() -> None:
    point = np.zeros((41, 2), dtype=np.float32)
    point[20] = 1, 2
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / 3.0) ** 2)
    kernel[np.abs(np.arange(-20, 21)) > 12] = 0  # four sigmas
    kernel /= kernel.sum()
    assert np.allclose(blur(point, 3.0), np.outer(kernel, (1, 2)), atol=1e-7)
    assert np.allclose(blur(np.ones((9, 5), dtype=np.float32), 3.0), 1, atol=1e-6)
    assert np.array_equal(blur(point, 0.1), point)


def test_a_map_is_resized_and_smoothed_like_an_image() -> None:
    grid = np.random.RandomState(0).rand(7, 9).astype(np.float32)
    large = np.asarray(Image.fromarray(min_max(grid)).resize((120, 80), Image.Resampling.BICUBIC))
    smooth = blur(blur(large, BLUR * 120).T, BLUR * 120).T
    assert np.allclose(resize_map(grid, (120, 80)), min_max(smooth), atol=1e-5)


def test_a_large_photo_is_drawn_quickly() -> None:
    start = time.process_time()
    resize_map(np.random.RandomState(0).rand(24, 24).astype(np.float32), (4000, 3000))
    assert time.process_time() - start < 5


def test_jet_equals_matplotlib() -> None:
    # values of its table of 256 entries (cm.datad["jet"])
    known = {0.0: (0, 0, 0.5), 0.25: (0, 0.504, 1), 0.5: (0.490, 1, 0.478), 0.75: (1, 0.582, 0), 1.0: (0.5, 0, 0)}
    for value, colour in known.items():
        assert np.allclose(jet(np.float32([value]))[0], colour, atol=0.02)


def test_the_maximum_is_colour_only_and_the_minimum_photo_only() -> None:
    photo, grid = Image.new("RGB", (64, 64), (10, 200, 30)), np.zeros((2, 2), dtype=np.float32)
    grid[0, 0] = 1
    drawn = np.asarray(draw_overlay(photo, grid))
    values = resize_map(grid, (64, 64))
    assert tuple(drawn[np.unravel_index(values.argmax(), values.shape)]) == (128, 0, 0)
    assert tuple(drawn[np.unravel_index(values.argmin(), values.shape)]) == (10, 200, 30)


def test_resizing_keeps_the_aspect_ratio() -> None:
    assert resize_longer_side(Image.new("RGB", (200, 100)), 480).size == (480, 240)
    assert resize_longer_side(Image.new("RGB", (100, 200)), 50).size == (25, 50)
    assert resize_longer_side(Image.new("RGB", (1000, 1)), 50).size == (50, 1)
