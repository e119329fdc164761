"""An explanation by tokens, by words and as a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from blip_lite.errors import UsageError
from blip_lite.results import Explanation

MAPS = np.arange(6 * 4, dtype=np.float32).reshape(6, 2, 2)
FOUND = Explanation(
    ("[ENC]", "a", "skate", "##board", ",", "[SEP]"),
    MAPS,
    "gradcam",
    2,
    0.9,
    text="a skateboard,",
    image=Image.new("RGB", (32, 16)),
)


def test_words_join_pieces_and_leave_out_special_tokens() -> None:
    words = FOUND.words()
    assert words.tokens == ("a", "skateboard", ",")
    assert np.array_equal(words.maps, np.stack([MAPS[1], (MAPS[2] + MAPS[3]) / 2, MAPS[4]]))
    assert words.words().tokens == words.tokens


def test_the_mean_is_that_of_the_tokens_that_are_words() -> None:
    assert np.array_equal(FOUND.mean(), MAPS[1:5].mean(axis=0))
    empty = Explanation(("[ENC]", "[SEP]"), MAPS[:2], "gradcam", 0, 0.5)
    assert not empty.mean().any() and empty.words().maps.shape == (0, 2, 2)


def test_a_map_by_number_piece_or_word() -> None:
    assert np.array_equal(FOUND.map_of(0), MAPS[0])
    assert np.array_equal(FOUND.map_of("##board"), MAPS[3])
    assert np.array_equal(FOUND.map_of("skateboard"), (MAPS[2] + MAPS[3]) / 2)
    for wrong in ("dog", 6):
        with pytest.raises(UsageError, match=r"no token .*; must be one of a, skateboard, ,, or a number"):
            FOUND.map_of(wrong)


def test_an_overlay_is_the_photo_at_the_size_asked_for() -> None:
    assert FOUND.overlay("skateboard").size == (32, 16)
    assert FOUND.overlay(size=64).size == (64, 32)
    with pytest.raises(UsageError, match="no image to draw on"):
        Explanation(("a",), MAPS[:1], "gradcam", 0, 0.5).overlay()


def test_its_record_and_its_look_hold_no_numbers_of_the_maps() -> None:
    assert FOUND.to_dict()["tokens"] == list(FOUND.tokens)
    assert "array" not in repr(FOUND) and "Image" not in repr(FOUND)
