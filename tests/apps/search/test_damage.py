"""Damage to an index is named, never repaired silently, and a rebuild replaces the index only when it is complete."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import blip
from blip.apps.search import rebuild
from blip.apps.search.database import FILE, Damaged
from blip.apps.search.index import Index
from blip.apps.search.update import UpdateOptions
from blip_lite.errors import BlipError, EnvironmentProblem, UsageError
from tests.apps.search.conftest import Paint

VECTORS = "vectors-1.usearch"
REBUILD = """
import sys, time, torch
torch.set_num_threads(1)
import blip
from blip.apps.search import rebuild
from blip.apps.search.index import Index
if sys.argv[2] == "replace":
    rebuild.replace = lambda folder: time.sleep(600)
Index.open(sys.argv[1], model=blip.load_random()).rebuild()
"""


def edit(folder: Path, sql: str) -> None:
    with sqlite3.connect(folder / FILE) as db:
        db.executescript(sql)
    db.close()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def enlarge(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(100))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


DATABASE_KEPT: dict[str, tuple[Callable[[Path], object], str]] = {
    "vectors missing": (lambda folder: (folder / VECTORS).unlink(), "vectors-1.usearch is missing"),
    "vectors truncated": (lambda folder: truncate(folder / VECTORS), "vectors-1.usearch has"),
    "vectors too long": (lambda folder: enlarge(folder / VECTORS), "vectors-1.usearch has"),
    "vectors changed": (lambda folder: flip(folder / VECTORS), "wrong checksum of vectors-1.usearch"),
    "vectors empty": (lambda folder: (folder / VECTORS).write_bytes(b""), "vectors-1.usearch has 0 bytes"),
    "photo without vector": (
        lambda folder: edit(folder, "INSERT INTO pictures (hash, at) VALUES (x'00', -1)"),
        "1 of 7 photos have no vector",
    ),
}
DATABASE_LOST: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (lambda folder: (folder / FILE).write_bytes(os.urandom(8000)), "file is not a database"),
    "only a header": (lambda folder: (folder / FILE).write_bytes(b"SQLite format 3\0" + bytes(5000)), "damaged"),
    "truncated": (lambda folder: truncate(folder / FILE), "malformed"),
    "missing": (lambda folder: (folder / FILE).unlink(), "index.db is missing"),
    "no table of folders": (lambda folder: edit(folder, "DROP TABLE roots"), "no such table: roots"),
    "newer version": (lambda folder: edit(folder, "PRAGMA user_version = 99"), "version 99, not 2; update blip"),
}


@pytest.fixture
def folder(photos: Path, tmp_path: Path, model: blip.Model) -> Path:
    """Folder of an index of six photos."""
    with Index.open(tmp_path / "index", model=model) as index:
        assert index.add_dir(photos).new == 6
    return tmp_path / "index"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".db", ".usearch")}


def count(folder: Path, model: blip.Model) -> int:
    with Index.open(folder, model=model) as index:
        index.check()
        assert len(list(folder.glob("vectors*"))) == 1 and not (folder / rebuild.FOLDER).exists()
        return len(index.search("a cat", top=1000))


@pytest.mark.parametrize("case", DATABASE_KEPT)
def test_damage_beside_the_database(folder: Path, model: blip.Model, case: str) -> None:
    damage, reason = DATABASE_KEPT[case]
    damage(folder)
    with Index.open(folder, model=model) as index:
        with pytest.raises(Damaged, match=f"{reason}.*blip index --rebuild$"):
            index.check()
        assert index.rebuild().new == 6  # the folders are known
    assert count(folder, model) == 6


@pytest.mark.parametrize("case", DATABASE_LOST)
def test_damage_of_the_database(folder: Path, photos: Path, model: blip.Model, case: str) -> None:
    damage, reason = DATABASE_LOST[case]
    damage(folder)
    before = contents(folder)
    with Index.open(folder, model=model) as index:
        with pytest.raises(BlipError, match=f"{reason}.*blip index --rebuild DIR"):
            index.check()
        with pytest.raises(UsageError, match=r"folders cannot be read|--rebuild DIR"):
            index.rebuild()
        assert contents(folder) == before  # nothing was deleted
    with Index.open(folder, model=model) as index:
        assert index.rebuild([(os.fsencode(photos), rebuild.Rules())]).new == 6
    assert count(folder, model) == 6


def test_missing_vectors_stop_an_update_with_changes(folder: Path, paint: Paint, model: blip.Model) -> None:
    (folder / VECTORS).unlink()
    paint("later.png", 50)
    with Index.open(folder, model=model) as index, pytest.raises(Damaged, match="is missing"):
        index.update()


def test_a_rebuild_with_another_model_keeps_readers(folder: Path, model: blip.Model) -> None:
    with Index.open(folder, model=model) as reader, Index.open(folder, model=blip.load_random(seed=1)) as index:
        with reader.snapshot() as (db, _):
            assert index.rebuild().new == 6
            assert db.count("pictures") == 6  # the state before
        assert len(index.search("a cat")) == 6
        assert index.update().unchanged == 6


def test_a_stopped_rebuild_changes_nothing_and_resumes(folder: Path, model: blip.Model) -> None:
    before = contents(folder)
    with Index.open(folder, model=model) as index:
        options = UpdateOptions(batch_size=2, progress=lambda done, total: done < 4)
        assert index.rebuild(options=options).stopped
        assert contents(folder)[VECTORS] == before[VECTORS] and len(index.search("a cat")) == 6
        report = index.rebuild()
        assert (report.new, report.unchanged) == (2, 4)
    assert count(folder, model) == 6


def test_a_missing_folder_stops_a_rebuild(folder: Path, photos: Path, tmp_path: Path, model: blip.Model) -> None:
    photos.rename(tmp_path / "unplugged")
    with Index.open(folder, model=model) as index:
        with pytest.raises(UsageError, match="folder is missing; restore it"):
            index.rebuild()
        assert len(index.search("a cat")) == 6


def test_records_of_sidecars_survive_a_rebuild(folder: Path, photos: Path, model: blip.Model) -> None:
    with Index.open(folder, model=model) as index:
        index.add_dir(photos, captioner=model)
        index.write_captions(".txt")
        index.rebuild()
        assert index.remove_captions().done == 6


@pytest.mark.parametrize("moment", ["build", "replace"])
def test_kill_during_a_rebuild(folder: Path, paint: Paint, model: blip.Model, moment: str) -> None:
    for number in range(40):
        paint(f"more {number}.png", 100 + number)
    before = contents(folder)
    process = subprocess.Popen([sys.executable, "-c", REBUILD, folder, moment])
    try:
        deadline = time.monotonic() + 300
        staged = folder / rebuild.FOLDER / (FILE if moment == "build" else VECTORS)
        while not staged.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert contents(folder)[VECTORS] == before[VECTORS]
    with Index.open(folder, model=model) as index:
        assert len(index.search("a cat", top=100)) == 6
        report = index.rebuild()
        assert report.new + report.unchanged == 46
    assert count(folder, model) == 46


def test_a_full_disk_keeps_the_index(folder: Path, paint: Paint, model: blip.Model) -> None:
    for number in range(100):
        paint(f"more {number}.png", 100 + number)
    with Index.open(folder, model=model) as index:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
            with pytest.raises(EnvironmentProblem):
                index.update()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert len(index.search("a cat", top=200)) >= 6
        index.check()
        index.update()
    shutil.rmtree(folder / rebuild.FOLDER, ignore_errors=True)
    assert count(folder, model) == 106


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [FILE, VECTORS])
def test_files_without_permission(folder: Path, model: blip.Model, name: str) -> None:
    (folder / name).chmod(0)
    try:
        with Index.open(folder, model=model) as index, pytest.raises(EnvironmentProblem, match="read"):
            index.check()
    finally:
        (folder / name).chmod(0o644)
