"""Uploaded photos and typed texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from blip.apps.demo import uploads
from blip.apps.demo.uploads import EXAMPLES, PHOTOS, Limits, Photo
from blip_lite.errors import UnreadableImage, UsageError


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small one.png"
    Image.effect_noise((40, 30), 80).save(path)
    return str(path)


def test_photo_keeps_its_file_name(small: str) -> None:
    photo = uploads.photo(small, Limits())
    assert (photo.name, photo.image.size, photo.image.mode) == ("small one.png", (40, 30), "RGB")


def test_missing_photos_are_errors() -> None:
    with pytest.raises(UsageError, match="no photo; drop one"):
        uploads.photo(None, Limits())
    with pytest.raises(UsageError, match="no photos; drop some"):
        uploads.photos([], Limits())


def test_limits_are_enforced_and_errors_name_only_the_file(small: str, tmp_path: Path) -> None:
    for limits, reason in ((Limits(bytes=100), "more than"), (Limits(pixels=1199), "megapixels")):
        with pytest.raises(UnreadableImage, match=f"^small one.png: .*{reason}"):
            uploads.photo(small, limits)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(UnreadableImage, match=r"^text.jpg: not an image"):
        uploads.photos([(str(tmp_path / "text.jpg"), None)], Limits())
    with pytest.raises(UsageError, match="17 photos; at most 16"):
        uploads.photos([(small, None)] * 17, Limits())


def test_texts_are_split_into_lines_and_limited() -> None:
    assert uploads.texts(" a cat \n\n a dog") == ["a cat", "a dog"]
    for lines, message in (("\n ", "no question; write"), ("x\n" * 33, "33 lines"), ("x" * 401, "401 characters")):
        with pytest.raises(UsageError, match=message):
            uploads.texts(lines, "question")


def test_file_name_is_escaped() -> None:
    element = uploads.as_html(Photo('"><script>x', Image.new("RGB", (500, 20))))
    assert "<script" not in element and element.count("<") == 1


def test_example_photos_have_source_and_licence() -> None:
    text = (PHOTOS / "README.md").read_text()
    assert sorted(Path(path).name for path in EXAMPLES) == sorted(p.name for p in PHOTOS.glob("*.jpg"))
    for path in EXAMPLES:
        line = next(line for line in text.splitlines() if f"`{Path(path).name}`" in line)
        assert "CC0" in line or "public domain" in line
        assert max(uploads.photo(path, Limits()).image.size) <= 512
