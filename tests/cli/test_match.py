"""`blip match` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Blip

RANDOM = ("-m", "random-tiny")


def test_every_text_is_scored_against_every_image(blip: Blip, photos: Path) -> None:
    result = blip("match", photos / "a.png", photos / "b.jpg", "-t", "a cat", "-t", "a dog", *RANDOM, "--json")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 0
    assert [(Path(r["key"]).name, r["text"], r["text_index"]) for r in rows] == [
        ("a.png", "a cat", 0),
        ("a.png", "a dog", 1),
        ("b.jpg", "a cat", 0),
        ("b.jpg", "a dog", 1),
    ]
    assert all(0 <= r["itm"] <= 1 and -1 <= r["itc"] <= 1 for r in rows)


def test_heads_order_and_thresholds(blip: Blip, photos: Path) -> None:
    args = ("match", photos / "a.png", "-t", "a cat", "-t", "two dogs run", "-t", "sea", *RANDOM, "--json")
    rows = [json.loads(line) for line in blip(*args, "--sort").out.splitlines()]
    assert [r["itm"] for r in rows] == sorted((r["itm"] for r in rows), reverse=True)
    best = [json.loads(line) for line in blip(*args, "--top", "1").out.splitlines()]
    assert best == rows[:1]
    cut = [json.loads(line) for line in blip(*args, "--threshold", str(rows[1]["itm"] - 1e-6)).out.splitlines()]
    assert len(cut) == 2
    assert "itm" not in blip(*args, "--head", "itc").out
    assert "itc" not in blip(*args, "--head", "itm").out


def test_pairs_and_texts_of_a_table(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a cat\na dog\n")
    args = ("match", photos / "a.png", photos / "b.jpg", *RANDOM, "--json")
    rows = [json.loads(line) for line in blip(*args, "--texts", tmp_path / "lines.txt", "--pairs").out.splitlines()]
    assert [(Path(r["key"]).name, r["text"]) for r in rows] == [("a.png", "a cat"), ("b.jpg", "a dog")]
    table = tmp_path / "m.jsonl"
    table.write_text('{"image": "photos/a.png", "text": "a cat"}\n{"image": "photos/b.jpg", "texts": ["x", "y"]}\n')
    rows = [json.loads(line) for line in blip("match", table, *RANDOM, "--json").out.splitlines()]
    assert [r["text"] for r in rows] == ["a cat", "x", "y"]


def test_errors_are_one_line(blip: Blip, photos: Path) -> None:
    for args, message in (
        ((photos / "a.png",), f"no texts for {photos}/a.png; give -t TEXT"),
        ((photos / "a.png", "-t", "x", "-t", "y", "--pairs"), "--pairs; 1 image and 2 texts, their numbers must match"),
        ((photos / "a.png", "-t", "x", "--head", "both2"), "--head both2; must be itm, itc or both"),
    ):
        result = blip("match", *args, *RANDOM)
        assert result.code == 2 and result.out == ""
        assert message in result.err and len(result.err.splitlines()) == 1


def test_an_unreadable_image_does_not_affect_the_others(blip: Blip, photos: Path) -> None:
    result = blip("match", photos, "-t", "a cat", *RANDOM)
    assert result.code == 1 and len(result.out.splitlines()) == 4
    assert "c.jpg: truncated" in result.err


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_threshold_is_a_finite_number(blip: Blip, photos: Path, value: str) -> None:
    result = blip("match", photos / "a.png", *RANDOM, "-t", "a cat", "--threshold", value)
    assert result.code == 2 and f"--threshold {value}; must be a number" in result.err and not result.out
