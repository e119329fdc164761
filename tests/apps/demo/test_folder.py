"""Which folders may be searched, and what is found there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import blip
from blip.apps.demo.folder import Folders
from blip.apps.demo.uploads import EXAMPLES
from blip_lite.errors import UsageError
from blip_lite.image import read

pytest.importorskip("usearch")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album" / "été"
    folder.mkdir(parents=True)
    for path in EXAMPLES[:3]:
        shutil.copy(path, folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    return folder.parent


def test_photos_are_found_by_words_and_by_a_photo(album: Path, tmp_path: Path) -> None:
    model, told = blip.load("tiny"), []
    folders = Folders(tmp_path / "index")

    def tick(done: int, total: int) -> bool:
        told.append((done, total))
        return True

    found = folders.search(model, str(album), ["a cup of coffee"], 2, tick)
    assert found[0][1].endswith(" · été/coffee.jpg") and len(found) == 2
    assert "match" in found[0][1] and max(found[0][0].size) <= 320 and told
    alike = folders.search(model, str(album), [read(EXAMPLES[0])], 1, tick)
    assert alike[0][1].startswith("cosine 1.00 · été/chelsea.jpg")


def test_only_the_root_may_be_searched_where_there_is_one(album: Path, tmp_path: Path) -> None:
    folders = Folders(tmp_path / "index", album)
    assert folders.allowed("été") == folders.allowed(str(album / "été")) == (album / "été").resolve()
    assert folders.allowed(".") == album.resolve()
    (album / "way out").symlink_to(tmp_path)
    for typed in ("..", str(tmp_path), "/", "été/../../", "way out"):
        with pytest.raises(UsageError, match="outside of the folder"):
            folders.allowed(typed)


def test_what_is_no_folder_or_no_query_is_one_line(album: Path, tmp_path: Path) -> None:
    folders = Folders(tmp_path / "index")
    for typed, message in (
        ("", "no folder; type"),
        (None, "no folder; type"),
        (str(album / "x"), "no such folder"),
        (EXAMPLES[0], "no such folder"),
    ):
        with pytest.raises(UsageError, match=message):
            folders.allowed(typed)
    for typed in ("~no-such-user", "/" + "a" * 300, "a\0b"):
        for searched in (folders, Folders(tmp_path / "index", album)):
            with pytest.raises(UsageError, match=r"no such folder|outside of the folder"):
                searched.allowed(typed)
    with pytest.raises(UsageError, match="nothing to search for"):
        folders.search(blip.load_random("tiny"), str(album), [], 3, lambda done, total: True)
