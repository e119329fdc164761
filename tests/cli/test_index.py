"""`blip index` from the command line."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Blip

RANDOM = ("-m", "random-tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_folder_is_indexed_and_then_kept_up_to_date(blip: Blip, photos: Path, home: Path) -> None:
    result = blip("index", photos, *RANDOM)
    assert result.code == 1 and result.out == ""
    assert "c.jpg: truncated" in result.err and "4 new, 1 failed" in result.err
    assert f"4 files in {home}/index" in result.err
    (photos / "c.jpg").unlink()
    (photos / "a.png").rename(photos / "sub" / "z.png")
    result = blip("index")
    assert result.code == 0 and "1 moved, 1 removed, 3 unchanged" in result.err


def test_without_changes_no_model_is_loaded(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blip("index", photos, *RANDOM)
    monkeypatch.setattr("blip.api.load", None)
    for args in ((), (photos,), (photos, *RANDOM), ("--prune-only",), ("--status",), ("--dry-run",)):
        assert blip("index", *args).code == 0


def test_status_shows_model_counts_and_failures(blip: Blip, photos: Path) -> None:
    blip("index", photos, *RANDOM)
    rows = [line.split("\t") for line in blip("index", "--status").out.splitlines()]
    assert ["model", "random-tiny"] in rows and ["files", "4"] in rows and ["folders", str(photos)] in rows
    assert any(name == "failed" and "c.jpg: truncated" in value for name, value in rows)
    status = json.loads(blip("index", "--status", "--json").out)
    assert status["pictures"] == 4 and status["bytes"] > 1000 and len(status["failed"]) == 1


def test_a_dry_run_lists_what_would_be_read(blip: Blip, photos: Path, home: Path) -> None:
    assert len(blip("index", photos, "--dry-run").out.splitlines()) == 5 and not home.exists()
    blip("index", photos, *RANDOM)
    (photos / "new.png").write_bytes((photos / "a.png").read_bytes())
    assert blip("index", "--dry-run").out == f"{photos}/new.png\n"


def test_captions_beside_the_photos_and_back(blip: Blip, photos: Path) -> None:
    result = blip("index", photos, *RANDOM, "--captions", "--write-captions", ".txt")
    assert result.code == 1 and "4 captioned" in result.err and "4 captions written, 0 kept" in result.err
    assert (photos / "a.txt").read_text().strip()
    (photos / "b.txt").write_text("mine now")
    result = blip("index", "--remove-captions")
    assert result.code == 0 and "b.txt: kept, changed since" in result.err
    assert [path.name for path in photos.rglob("*.txt")] == ["b.txt"]


def test_scan_rules_are_kept_until_changed(blip: Blip, photos: Path) -> None:
    blip("index", photos, *RANDOM, "-g", "!*.jpg")
    assert "3 unchanged" in blip("index", photos).err
    assert "1 new, 1 failed, " in blip("index", photos, "--hidden").err.replace(", 3 unchanged", "")


def test_another_model_needs_a_rebuild(blip: Blip, photos: Path) -> None:
    blip("index", photos, *RANDOM)
    args = ("index", photos, *RANDOM, "--image-size", "48")
    (photos / "new.png").write_bytes((photos / "a.png").read_bytes() + b" ")
    result = blip(*args)
    assert result.code == 3 and "index was created with 'random-tiny'" in result.err and "--rebuild" in result.err
    assert len(result.err.splitlines()) == 1
    assert "5 new, 1 failed" in blip(*args, "--rebuild").err
    assert json.loads(blip("index", "--status", "--json").out)["image_size"] == 48
    assert "5 new" in blip("index", "--rebuild").err  # of the folders known
    result = blip("index", "--rebuild", "-m", "no-such-model")
    assert result.code == 3 and json.loads(blip("index", "--status", "--json").out)["files"] == 5


def test_damage_is_one_line_and_a_rebuild_repairs_it(blip: Blip, photos: Path, home: Path) -> None:
    blip("index", photos, *RANDOM)
    (home / "index" / "index.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    for args in (("index",), ("index", photos), ("index", "--status"), ("search", "cat")):
        result = blip(*args)
        assert result.code == 3 and "damaged" in result.err and "blip index --rebuild DIR" in result.err
        assert len(result.err.splitlines()) == 1
    damaged = (home / "index" / "index.db").read_bytes()
    result = blip("index", "--rebuild", *RANDOM)
    assert result.code == 2 and "its folders cannot be read" in result.err and len(result.err.splitlines()) == 1
    assert (home / "index" / "index.db").read_bytes() == damaged and list((home / "index").glob("vectors-*"))
    assert "4 new" in blip("index", "--rebuild", photos, *RANDOM).err
    with sqlite3.connect(home / "index" / "index.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_missing_vectors_are_an_error_until_a_rebuild(blip: Blip, photos: Path, home: Path) -> None:
    (photos / "c.jpg").unlink()
    blip("index", photos, *RANDOM)
    (home / "index" / "vectors-1.usearch").unlink()
    for args in (("index",), ("index", photos), ("index", "--status"), ("search", "cat")):
        result = blip(*args)
        assert result.code == 3 and "vectors-1.usearch is missing" in result.err and len(result.err.splitlines()) == 1
    result = blip("index", "--rebuild")
    assert result.code == 0 and "4 new" in result.err and blip("search", "cat").code == 0


def test_each_damage_is_named_once(blip: Blip, photos: Path, home: Path) -> None:
    (photos / "c.jpg").unlink()
    blip("index", photos, *RANDOM)
    vectors = home / "index" / "vectors-1.usearch"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    error = blip("search", "cat").err
    assert error.count("damaged") == 1 and error.endswith("); rebuild it: blip index --rebuild\n")
    (home / "index" / "index.db").write_bytes(b"")
    for args in (("index",), ("index", photos), ("search", "cat")):
        result = blip(*args)
        assert result.code == 3 and "index is damaged (index.db is empty)" in result.err
    assert "4 new" in blip("index", "--rebuild", photos, *RANDOM).err


@pytest.mark.filterwarnings("default")
def test_broken_links_are_named(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe")
    (photos / "linked.jpg").symlink_to(tmp_path / "pipe")
    result = blip("index", photos, *RANDOM)
    assert "broken.jpg: cannot be read (No such file or directory)" in result.err
    assert "linked.jpg: not a file (a pipe, socket or device)" in result.err and "4 new" in result.err


def test_rebuild_of_some_folders_names_the_others(blip: Blip, photos: Path) -> None:
    blip("index", photos, *RANDOM)
    result = blip("index", "--rebuild", photos / "sub", *RANDOM)
    assert result.code == 0 and f"{photos}: folder is no longer in the index" in result.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no folder is indexed yet; name one: blip index DIR"),
        (("no-such-folder",), "no-such-folder: no such folder"),
        (("--status",), "no index here; create one with 'blip index DIR'"),
        (("--prune-only",), "no index here; create one with 'blip index DIR'"),
        (("--status", "--rebuild"), "--rebuild with --status; must be one of the two"),
        (("--captioner", "tiny"), "--captioner; must be used with --captions"),
        (("--rebild",), "unknown flag '--rebild'; did you mean '--rebuild'?"),
        (("--frames", "0"), "--frames 0; must be an integer from 1 to 256"),
    ],
)
def test_usage_errors_are_one_line(blip: Blip, home: Path, args: tuple[str, ...], message: str) -> None:
    result = blip("index", *args)
    assert result.code == 2 and result.out == "" and message in result.err and len(result.err.splitlines()) == 1
    assert not home.exists()


def test_a_file_is_not_a_folder(blip: Blip, photos: Path) -> None:
    assert "is a file; name its folder" in blip("index", photos / "a.png").err
    assert "contains other files" in blip("index", photos, *RANDOM, "--index", photos).err


def test_a_folder_without_photos_is_an_error(blip: Blip, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = blip("index", tmp_path / "empty", *RANDOM)
    assert result.code == 2 and "empty: no photos; --video includes videos" in result.err
