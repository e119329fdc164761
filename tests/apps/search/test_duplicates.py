"""Copies of a photo are found, other photos are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import blip
from blip.apps.search import duplicates
from blip.apps.search.index import Index
from blip.apps.search.pixels import compare, reduce

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def photo(name: str = "chelsea.png") -> Image.Image:
    return Image.open(EXAMPLES / name).convert("RGB")


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))


def saved(image: Image.Image, folder: Path, name: str, **options: object) -> Image.Image:
    path = folder / name
    image.save(path, **options)
    return Image.open(path).convert("RGB")


def agree(a: Image.Image, b: Image.Image) -> bool:
    forward, backward = compare(reduce(a), reduce(b)), compare(reduce(b), reduce(a))
    assert forward.is_copy == backward.is_copy
    return forward.is_copy


@pytest.mark.parametrize("name", NAMES)
def test_copies_agree(name: str, tmp_path: Path) -> None:
    image = photo(name)
    half = image.resize((image.width // 2, image.height // 2))
    assert agree(image, image)
    assert agree(image, saved(image, tmp_path, "a.jpg", quality=30))
    assert agree(image, saved(half, tmp_path, "b.webp", quality=60))
    assert agree(image, crop(image, 0.04, 0, 1, 0.95)) and agree(image, crop(image, 0, 0.08, 0.97, 1))
    assert agree(crop(image, 0.05, 0.05, 1, 1), crop(image, 0, 0, 0.95, 0.95))
    assert agree(image, ImageEnhance.Brightness(image).enhance(1.2))
    assert agree(image, ImageEnhance.Contrast(crop(half, 0.02, 0.02, 0.99, 1)).enhance(0.8))


@pytest.mark.parametrize("name", NAMES)
def test_near_misses_do_not_agree(name: str) -> None:
    image = photo(name)
    assert not agree(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert not agree(image, image.transpose(Image.Transpose.ROTATE_180))
    assert not agree(image, image.convert("L").convert("RGB"))
    assert not agree(image, crop(image, 0, 0, 0.6, 0.6))
    changed = image.copy()
    middle = crop(image, 0.45, 0.45, 0.57, 0.57)
    changed.paste(
        photo("coffee.png" if name != "coffee.png" else "chelsea.png").resize(middle.size), (image.width // 2, 20)
    )
    assert not agree(image, changed)
    for another in NAMES:
        assert another == name or not agree(image, photo(another))


def test_photos_without_detail_agree_only_if_equally_bright() -> None:
    dark, light, noisy = (Image.new("RGB", (100, 80), (level,) * 3) for level in (20, 90, 90))
    noise = np.random.RandomState(0).randint(-1, 2, (80, 100, 3))
    noisy = Image.fromarray((np.asarray(noisy) + noise).astype(np.uint8))
    assert agree(light, noisy) and not agree(dark, light)


def test_pages_of_the_same_layout_do_not_agree() -> None:
    def page(seed: int) -> Image.Image:
        """Lines of dark letters on white; only the letters differ."""
        rng = np.random.RandomState(seed)
        pixels = np.full((60, 40), 255, np.uint8)
        pixels[4:-4:3, 3:-3] = np.where(rng.rand(len(range(4, 56, 3)), 34) < 0.5, 30, 255)
        return Image.fromarray(pixels).resize((400, 600), Image.Resampling.NEAREST).convert("RGB")

    assert agree(page(0), page(0)) and not agree(page(0), page(1))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Four different photos, and three copies of one."""
    folder = tmp_path / "album"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(EXAMPLES / name, folder)
    cat = photo()
    cat.resize((cat.width * 2, cat.height * 2)).save(folder / "large.jpg", quality=85)
    crop(cat, 0.03, 0.02, 1, 1).save(folder / "cropped.jpg", quality=80)
    shutil.copy(folder / "rocket.jpg", folder / "rocket again.jpg")
    return folder


def test_groups_begin_with_the_most_pixels(index: Index, album: Path) -> None:
    index.add_dir(album)
    report = index.duplicates()
    names = [[Path(hit.path).name for hit in group] for group in report.groups]
    assert names == [["large.jpg", "chelsea.png", "cropped.jpg"], ["rocket again.jpg", "rocket.jpg"]]
    assert [hit.rank for hit in report.groups[1]] == [2, 2] and report.failed == []
    assert report.groups[0][0].score == 1 and 0.9 < report.groups[0][1].score < 1
    assert [hit.score for hit in report.groups[1]] == [1, 1]
    assert index.duplicates(under=album) == report


def test_links_to_one_file_count_once(index: Index, album: Path) -> None:
    for path in (album / "large.jpg", album / "cropped.jpg", album / "rocket again.jpg"):
        path.unlink()
    (album / "a link.png").symlink_to(album / "coffee.png")
    os.link(album / "chelsea.png", album / "hard link.png")
    index.add_dir(album)
    assert index.duplicates().groups == []
    shutil.copy(album / "coffee.png", album / "z.png")
    index.update()
    (group,) = index.duplicates().groups
    assert [Path(hit.path).name for hit in group] == ["coffee.png", "z.png"]


def test_only_candidates_are_read(index: Index, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add_dir(album)
    read: list[str] = []
    original = duplicates.read_picture
    monkeypatch.setattr(duplicates, "read_picture", lambda path: read.append(path.decode()) or original(path))
    index.duplicates()
    assert sorted(Path(path).name for path in read) == ["chelsea.png", "cropped.jpg", "large.jpg"]


def test_files_that_changed_are_reported_not_grouped(index: Index, album: Path) -> None:
    index.add_dir(album)
    shutil.copy(album / "coffee.png", album / "rocket again.jpg")
    (album / "chelsea.png").unlink()
    report = index.duplicates()
    assert [[Path(hit.path).name for hit in group] for group in report.groups] == [["large.jpg", "cropped.jpg"]]
    assert {Path(path).name: reason for path, reason in report.failed} == {
        "chelsea.png": "cannot be read (No such file or directory)",
        "rocket again.jpg": "changed since it was indexed",
    }


def test_an_index_of_the_first_version_is_read_again(index: Index, album: Path, model: blip.Model) -> None:
    index.add_dir(album)
    index.close()
    with index.writer() as db:
        db.executescript("ALTER TABLE pictures DROP COLUMN phash; ALTER TABLE pictures DROP COLUMN pixels")
        db.execute("PRAGMA user_version = 1")
    with Index.open(index.folder, model=model) as again:
        assert again.update().new == 6  # one is a copy
        assert len(again.duplicates().groups) == 2
