"""Sidecar files: their paths, and the files and content that they keep."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from blip.io.byte_sources import TarMember
from blip.io.samples import ImageRef, Sample
from blip.io.sidecars import Sidecars, sidecar_ending, xmp
from blip_lite.errors import BadRecord, UsageError

LI = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"


def image(folder: Path, name: str = "a.jpg") -> Sample:
    (folder / name).write_bytes(b"pixels")
    return Sample(key=f"photos/{name}", images=(ImageRef(folder / name),))


def test_text_is_written_beside_the_image_which_is_unchanged(tmp_path: Path) -> None:
    sample = image(tmp_path)
    sidecars = Sidecars(prefix="<", suffix=">")
    sidecars.write(sidecars.path(sample), "é")
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
    assert Sidecars().must_write(Sidecars().path(sample))
    (tmp_path / "a.txt").write_text("old")
    assert not Sidecars().must_write(Sidecars().path(sample))
    with pytest.raises(UsageError, match=r"a.txt exists; use --skip-existing"):
        Sidecars(existing="error").must_write(tmp_path / "a.txt")
    Sidecars(existing="append").write(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old\nnew\n"
    Sidecars(existing="overwrite").write(tmp_path / "a.txt", "new", "newer")
    assert (tmp_path / "a.txt").read_text() == "new\nnewer\n"


def test_xmp_holds_the_description() -> None:
    root = ElementTree.fromstring(xmp("a <dog> & \x00cat"))
    assert [li.text for li in root.iter(LI)] == ["a <dog> & cat"]
    assert b"<dc:description>" in xmp("x") and b'xml:lang="x-default"' in xmp("x")


def test_xmp_keeps_other_content(tmp_path: Path) -> None:
    old = xmp("old").replace(
        b'rdf:about=""', b'rdf:about="" xmlns:dt="http://darktable.sf.net/" dt:stars="5"'
    )  # a setting of another program
    (tmp_path / "a.xmp").write_bytes(old)
    Sidecars(extension=".xmp", existing="overwrite").write(tmp_path / "a.xmp", "new")
    written = (tmp_path / "a.xmp").read_bytes()
    assert b'dt:stars="5"' in written and [li.text for li in ElementTree.fromstring(written).iter(LI)] == ["new"]
    Sidecars(extension=".xmp", existing="append").write(tmp_path / "a.xmp", "more")
    assert b"new\nmore" in (tmp_path / "a.xmp").read_bytes()


def test_other_files_are_not_changed() -> None:
    for old, reason in ((b"<a/>", "not XMP"), (b"binary", "not XML")):
        with pytest.raises(BadRecord, match=reason):
            xmp("x", old)


def test_images_that_differ_in_their_ending_have_their_own_sidecars(tmp_path: Path) -> None:
    """Also if only one of them is an input, so that a run does not depend on the others."""
    mirror = tmp_path / "texts"
    for sidecars, folder in ((Sidecars(), tmp_path), (Sidecars(folder=mirror), mirror / "photos")):
        photo, other = image(tmp_path, "photo.jpg"), image(tmp_path, "photo.PNG")
        expected = {"photos/photo.jpg": folder / "photo.jpg.txt", "photos/photo.PNG": folder / "photo.PNG.txt"}
        assert sidecars.paths([photo, other]) == expected
        assert sidecars.path(photo) == folder / "photo.jpg.txt"
        assert sidecars.path(image(tmp_path, "alone.jpg")) == folder / "alone.txt"


def test_a_link_to_the_same_image_shares_its_sidecar(tmp_path: Path) -> None:
    photo = image(tmp_path, "photo.jpg")
    (tmp_path / "photo.png").symlink_to("photo.jpg")
    assert Sidecars().path(photo) == tmp_path / "photo.txt"


def test_inputs_that_would_share_a_file_of_the_mirror_get_full_names(tmp_path: Path) -> None:
    def sample(key: str) -> Sample:
        return Sample(key=key, images=(ImageRef(TarMember(Path("s.tar"), key, 0, 0)),))

    mirror = Sidecars(folder=tmp_path)
    paths = mirror.paths([sample("x/a.jpg"), sample("x/a.png"), sample("x/b.png")])
    assert [path.name for path in paths.values()] == ["a.jpg.txt", "a.png.txt", "b.txt"]
    for first, second in (("../a.jpg", "a.jpg"), ("a:b.jpg", "a?b.jpg")):
        with pytest.raises(UsageError, match=f"{re.escape(first)} and {re.escape(second)} would share"):
            mirror.paths([sample(first), sample(second)])


def test_endings_of_sidecars_need_no_dot() -> None:
    assert [sidecar_ending(text, "--sidecar") for text in ("txt", ".XMP", "caption")] == [".txt", ".xmp", ".caption"]
    for text in (".jpg", ".json", "", "txt.gz"):
        with pytest.raises(UsageError, match=r"--sidecar .*; must be one of \.txt, \.caption, \.xmp"):
            sidecar_ending(text, "--sidecar")
