"""Queries in the syntax of rclip."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip.apps.search.query import Part, parse
from blip.io.byte_sources import Url
from blip.io.samples import Sample
from blip_lite.errors import UsageError


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["a dog"], [("a dog", 1)]),
        (["a", "dog"], [("a dog", 1)]),
        (["dog", "-", "people"], [("dog", 1), ("people", -1)]),
        (["-", "people"], [("people", -1)]),
        (["dog", "+", "2:a", "red", "ball", "-", ".5:cat"], [("dog", 1), ("a red ball", 2), ("cat", -0.5)]),
        (["2:dog", "3:cat"], [("dog", 2), ("cat", 3)]),
        (["dog - people"], [("dog - people", 1)]),
    ],
)
def test_signs_and_weights(words: list[str], parts: list[tuple[str, float]]) -> None:
    assert parse(words) == [Part(*part) for part in parts]


def test_paths_and_urls_are_photos() -> None:
    words = ["./a b.jpg", "2:/c.png", "file:///d%20e.png", "-", "https://x.org/f.jpg", "g.jpg"]
    *photos, url, text = parse(words, url_timeout=3)
    assert [p.value.image.source for p in photos] == [Path("a b.jpg"), Path("/c.png"), Path("/d e.png")]
    assert [p.weight for p in photos] == [1, 2, 1]
    assert isinstance(url.value, Sample) and url.weight == -1
    assert url.value.image.source == Url("https://x.org/f.jpg", timeout=3)
    assert text == Part("g.jpg")


@pytest.mark.parametrize("words", [[], [""], ["  "], ["+"], ["dog", "-"], ["dog", "+", "-", "cat"], ["2: "]])
def test_incomplete_query_is_rejected(words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"query|sign"):
        parse(words)


def test_huge_weight_is_rejected() -> None:
    with pytest.raises(UsageError, match=r"weight 9+ of 'cat'; must be at most 1,000,000"):
        parse([f"{'9' * 400}:cat"])
