"""Folders that may be searched, and search results."""

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


def test_search_by_words_and_by_photo(album: Path, tmp_path: Path) -> None:
    model, calls = blip.load("tiny"), []
    folders = Folders(tmp_path / "index")

    def progress(done: int, total: int) -> bool:
        calls.append((done, total))
        return True

    photos = folders.search(model, str(album), ["a cat"], 2, progress)
    assert photos[0][1].endswith(" · été/chelsea.jpg") and len(photos) == 2
    assert photos[0][1].startswith("cosine") and max(photos[0][0].size) <= 320 and calls
    similar = folders.search(model, str(album), [read(EXAMPLES[0])], 1, progress)
    assert similar[0][1].startswith("cosine 1.00 · été/chelsea.jpg")


def test_only_folders_inside_the_root_are_allowed(album: Path, tmp_path: Path) -> None:
    folders = Folders(tmp_path / "index", album)
    assert folders.allowed("été") == folders.allowed(str(album / "été")) == (album / "été").resolve()
    assert folders.allowed(".") == album.resolve()
    (album / "way out").symlink_to(tmp_path)
    for typed in ("..", str(tmp_path), "/", "été/../../", "way out"):
        with pytest.raises(UsageError, match="outside of the folder"):
            folders.allowed(typed)


def test_missing_folder_and_empty_query_are_errors(album: Path, tmp_path: Path) -> None:
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
    with pytest.raises(UsageError, match="empty query"):
        folders.search(blip.load_random(), str(album), [], 3, lambda done, total: True)
