"""SQLite database of an index: migrations and failures."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from blip.apps.search import database
from blip_lite.errors import EnvironmentProblem


def test_migrations_are_applied_once_in_order() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    steps = ("CREATE TABLE a (x);", "ALTER TABLE a ADD COLUMN y;")
    database.migrate(db, steps[:1])
    db.execute("INSERT INTO a VALUES (1)")
    database.migrate(db, steps)
    database.migrate(db, steps)
    assert database.version(db) == 2 and db.execute("SELECT x, y FROM a").fetchall() == [(1, None)]
    db.close()


def test_failed_migration_keeps_previous_schema() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(sqlite3.Error):
        database.migrate(db, ("CREATE TABLE a (x); CREATE TABLE a (x);",))
    db.execute("ROLLBACK")
    assert database.version(db) == 0 and db.execute("SELECT name FROM sqlite_master").fetchall() == []
    db.close()


def test_index_of_newer_version_is_rejected(tmp_path: Path) -> None:
    db = database.connect(tmp_path / "i", create=True)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(EnvironmentProblem, match="version 99, not 2; update blip"):
        database.connect(tmp_path / "i")


def test_full_disk_raises_and_keeps_data(tmp_path: Path) -> None:
    db = database.connect(tmp_path / "i", create=True)
    with db.transaction():
        db.execute("INSERT INTO pending VALUES (1, ?)", (bytes(512),))
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(EnvironmentProblem, match="no space left"), db.transaction():
        db.executemany("INSERT INTO pending VALUES (?, ?)", [(i, bytes(4096)) for i in range(2, 50)])
    assert db.execute("SELECT count(*) FROM pending").fetchone() == (1,)
    db.close()
