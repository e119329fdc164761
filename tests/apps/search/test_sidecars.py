"""Captions as sidecars beside the photos, and their removal."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

import blip
from blip.apps.search.index import Index
from blip_lite.errors import UsageError


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("extension", [".txt", ".xmp"])
def test_written_captions_can_be_removed(index: Index, photos: Path, model: blip.Model, extension: str) -> None:
    before = tree(photos)
    index.add_dir(photos, captioner=model)
    assert index.write_captions(extension).done == 6
    caption = model.caption(photos / "3.png").text
    assert caption in (photos / f"3{extension}").read_text(encoding="utf-8")
    assert index.write_captions(extension).unchanged == 6
    assert index.remove_captions().done == 6 and tree(photos) == before
    assert index.remove_captions().done == 0


def test_foreign_files_are_never_touched(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos, captioner=model)
    (photos / "0.txt").write_text("mine")
    shutil.copy(photos / "1.png", photos / "1.gif")  # its sidecar is 1.gif.txt
    index.update()
    report = index.write_captions(".txt")
    assert report.done == 6 and {"1.gif.txt", "1.png.txt"} <= {path.name for path in photos.rglob("*.txt")}
    assert [(Path(path).name, reason) for path, reason in report.kept] == [("0.txt", "not written by this index")]
    (photos / "2.txt").write_text("changed by me")
    (photos / "3.txt").unlink()
    report = index.remove_captions()
    assert report.done == 4 and [reason for _, reason in report.kept] == ["changed since"]
    assert sorted(path.name for path in photos.rglob("*.txt")) == ["0.txt", "2.txt"]
    assert (photos / "0.txt").read_text() == "mine" and (photos / "2.txt").read_text() == "changed by me"


def test_captions_of_one_folder(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos, captioner=model)
    assert index.write_captions(".txt", under=photos / "sub dir").done == 1
    index.write_captions(".txt")
    assert index.remove_captions(under=photos / "sub dir").done == 1
    assert len(list(photos.rglob("*.txt"))) == 5


def test_irreplaceable_sidecar_stays_recorded(
    index: Index, photos: Path, model: blip.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add_dir(photos, captioner=model)
    index.write_captions(".txt")
    with index.writer() as db:
        db.execute("UPDATE pictures SET caption = 'new: text'")
    refuse = PermissionError(errno.EACCES, "Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", Mock(side_effect=refuse))
        report = index.write_captions(".txt")
    assert report.done == 0 and {reason for _, reason in report.kept} == {"cannot be written (Permission denied)"}
    assert index.write_captions(".txt").done == 6


def test_missing_captions_and_unknown_extension_are_errors(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    with pytest.raises(UsageError, match="no captions to write"):
        index.write_captions(".txt")
    with pytest.raises(UsageError, match=r"must be \.txt or \.xmp"):
        index.write_captions(".jpg")
