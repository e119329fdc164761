"""Sidecar files: their paths, and the files and content that they keep."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from blip.io.byte_sources import TarMember
from blip.io.samples import ImageRef, Sample
from blip.io.sidecars import Sidecars, xmp
from blip_lite.errors import BadRecord, UsageError

LI = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"


def image(folder: Path, name: str = "a.jpg") -> Sample:
    (folder / name).write_bytes(b"pixels")
    return Sample(key=f"photos/{name}", images=(ImageRef(folder / name),))


def test_text_is_written_beside_the_image_which_is_unchanged(tmp_path: Path) -> None:
    sample = image(tmp_path)
    assert Sidecars(prefix="<", suffix=">").write(sample, "é") == tmp_path / "a.txt"
    assert (tmp_path / "a.txt").read_text("utf-8") == "<é>\n" and (tmp_path / "a.jpg").read_bytes() == b"pixels"
    assert Sidecars().path(image(tmp_path, "scan.2024")).name == "scan.2024.txt"


def test_folder_mirrors_the_tree_and_contains_all_paths(tmp_path: Path) -> None:
    sidecars = Sidecars(folder=tmp_path)
    shard = TarMember(Path("s.tar"), "d/1.png", 0, 0)
    for key, place in (
        ("photos/x/a.jpg", "photos/x/a.txt"),
        ("s.tar/d/1", "s.tar/d/1.txt"),
        ("../../etc/a.jpg", "etc/a.txt"),
        ("/abs/a.png", "abs/a.txt"),
        ("https://h/a.jpg?x=1", "https_/h/a.jpg_x=1.txt"),
    ):
        assert sidecars.path(Sample(key=key, images=(ImageRef(shard),))) == tmp_path / place
    with pytest.raises(UsageError, match="use --sidecar-dir"):
        Sidecars().path(Sample(key="s.tar/d/1", images=(ImageRef(shard),)))


def test_existing_files_are_skipped_rejected_replaced_or_extended(tmp_path: Path) -> None:
    sample = image(tmp_path)
    assert Sidecars().must_write(sample)
    (tmp_path / "a.txt").write_text("old")
    assert not Sidecars().must_write(sample)
    with pytest.raises(UsageError, match=r"a.txt exists; use --skip-existing"):
        Sidecars(existing="error").must_write(sample)
    Sidecars(existing="append").write(sample, "new")
    assert (tmp_path / "a.txt").read_text() == "old\nnew\n"
    Sidecars(existing="overwrite").write(sample, "new")
    assert (tmp_path / "a.txt").read_text() == "new\n"


def test_xmp_holds_the_description() -> None:
    root = ElementTree.fromstring(xmp("a <dog> & \x00cat"))
    assert [li.text for li in root.iter(LI)] == ["a <dog> & cat"]
    assert b"<dc:description>" in xmp("x") and b'xml:lang="x-default"' in xmp("x")


def test_xmp_keeps_other_content(tmp_path: Path) -> None:
    old = xmp("old").replace(
        b'rdf:about=""', b'rdf:about="" xmlns:dt="http://darktable.sf.net/" dt:stars="5"'
    )  # a setting of another program
    (tmp_path / "a.xmp").write_bytes(old)
    Sidecars(extension=".xmp", existing="overwrite").write(image(tmp_path), "new")
    written = (tmp_path / "a.xmp").read_bytes()
    assert b'dt:stars="5"' in written and [li.text for li in ElementTree.fromstring(written).iter(LI)] == ["new"]
    Sidecars(extension=".xmp", existing="append").write(image(tmp_path), "more")
    assert b"new\nmore" in (tmp_path / "a.xmp").read_bytes()


def test_other_files_are_not_changed() -> None:
    for old, reason in ((b"<a/>", "not XMP"), (b"binary", "not XML")):
        with pytest.raises(BadRecord, match=reason):
            xmp("x", old)
