"""Folder of an explanation: images, numbers, record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip.heatmaps.files import write
from blip_lite.errors import UsageError
from blip_lite.explanation import Explanation
from blip_lite.image import read

MAPS = np.random.default_rng(0).random((6, 7, 7), dtype=np.float32)
EXPLANATION = Explanation(
    ("[ENC]", "a/b", "skate", "##board", "?", "[SEP]"),
    MAPS,
    "gradcam",
    2,
    0.9,
    text="a/b skateboard?",
    image=Image.new("RGB", (200, 100), (9, 9, 9)),
)


def test_each_word_has_an_image_and_numbers(tmp_path: Path) -> None:
    record = write(tmp_path, EXPLANATION, size=100, about={"key": "k"})
    names = ["00_ab.png", "01_skateboard.png", "02_token.png", "mean.png", "map.npz"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "explain.json"])
    assert record == json.loads((tmp_path / "explain.json").read_text()) and record["files"] == names
    assert list(record)[:2] == ["schema", "key"] and (record["width"], record["height"]) == (100, 50)
    assert all(read(tmp_path / name).size == (100, 50) for name in names[:4])
    with np.load(tmp_path / "map.npz", allow_pickle=False) as numbers:
        assert list(numbers["tokens"]) == ["a/b", "skateboard", "?"] == record["tokens"]
        assert numbers["maps"].shape == (3, 50, 100) and numbers["grid"].shape == (3, 7, 7)
        assert (numbers["maps"].min(axis=(1, 2)) == 0).all() and (numbers["maps"].max(axis=(1, 2)) == 1).all()
        assert np.array_equal(numbers["grid"][0], MAPS[1])


def test_all_tokens_or_only_the_mean(tmp_path: Path) -> None:
    assert write(tmp_path / "all", EXPLANATION, tokens="all", about={})["tokens"] == list(EXPLANATION.tokens)
    assert (tmp_path / "all" / "00_ENC.png").exists() and (tmp_path / "all" / "03_board.png").exists()
    record = write(tmp_path / "mean", EXPLANATION, tokens="mean", image_format="jpg", about={})
    assert record["files"] == ["mean.jpg", "map.npz"] and record["tokens"] == ["mean"]
    with np.load(tmp_path / "mean" / "map.npz") as numbers:
        assert np.allclose(numbers["grid"][0], MAPS[1:5].mean(axis=0))


def test_writing_again_removes_the_old_images_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, EXPLANATION, tokens="all", about={})
    (tmp_path / "mine.txt").write_text("keep")
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("keep")
    old = json.loads((tmp_path / "explain.json").read_text())
    (tmp_path / "explain.json").write_text(json.dumps({**old, "files": [*old["files"], "../outside.txt"]}))
    write(tmp_path, EXPLANATION, tokens="mean", about={})
    assert {p.name for p in tmp_path.iterdir()} == {"mine.txt", "mean.png", "map.npz", "explain.json"}
    assert outside.exists()


def test_an_unknown_image_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="image format 'bmp'; must be one of png, jpg, webp"):
        write(tmp_path / "x", EXPLANATION, image_format="bmp", about={})
    assert not (tmp_path / "x").exists()
