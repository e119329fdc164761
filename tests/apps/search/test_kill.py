"""kill -9 at any moment: the next run resumes, embeds nothing twice and loses nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import blip
from blip.apps.search import update, vectors
from blip.apps.search.database import FILE, Database
from blip.apps.search.index import Index
from tests.apps.search.conftest import Paint

# Stops before the end, so that it cannot finish before it is killed.
INDEX = """
import sys, time, torch
torch.set_num_threads(1)
import blip
from blip.apps.search.index import Index
def progress(done, total):
    while done >= 50:
        time.sleep(1)
    return True
Index.open(sys.argv[1], model=blip.load_random()).add_dir(
    sys.argv[2], batch_size=1, workers=1, progress=progress
)
"""


def count(folder: Path) -> int:
    try:
        with sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM pictures").fetchone()[0])
    except sqlite3.OperationalError:  # not created yet
        return 0


def test_indexing_resumes_after_kill(paint: Paint, tmp_path: Path, model: blip.Model) -> None:
    for number in range(60):
        paint(f"{number:02d}.png", number)
    folder, photos = tmp_path / "index", tmp_path / "photos"
    process = subprocess.Popen([sys.executable, "-c", INDEX, folder, photos])
    try:
        deadline = time.monotonic() + 600
        while count(folder) < 5 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    done = count(folder)
    assert 5 <= done <= 50
    with Index.open(folder, model=model) as index:
        assert len(index.search("a cat", top=100, rerank=0)) == done
        report = index.add_dir(photos)
        assert (report.new, report.unchanged) == (60 - done, done)
        assert len(index.search("a cat", top=100, rerank=0)) == 60


@pytest.mark.parametrize("moment", ["before the vector file", "after the vector file", "between drop and fold"])
def test_fold_survives_kill(
    index: Index, photos: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch, model: blip.Model, moment: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    set_meta = Database.set_meta

    def die_at_generation(db: Database, **values: object) -> None:
        if "generation" in values:
            raise Killed
        set_meta(db, **values)

    index.add_dir(photos)
    (photos / "0.png").unlink()
    paint("new.png", 70)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "before the vector file":
            patch.setattr(vectors, "_crc", die)
        elif moment == "after the vector file":
            patch.setattr(Database, "set_meta", die_at_generation)
        else:
            patch.setattr(update.vectors, "fold", die)
        index.update()
    with Index.open(index.folder, model=model) as again:
        names = sorted(os.path.basename(hit.path) for hit in again.search("a cat", rerank=0))
        assert names == ["1.png", "2.png", "3.png", "4.png", "5 ü.png", "new.png"]
        assert len(again.search("a cat", rerank=0, top=6)) == 6
        assert again.update().unchanged == 6
        with again.snapshot() as (_, state):
            assert state is not None and len(state) == 6 and not len(state.new_ids)
    assert len(list(index.folder.glob("vectors*"))) == 1
