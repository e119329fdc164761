"""The SQLite file: migrations and what can go wrong."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from blip.apps.search import database, schema
from blip_lite.errors import EnvironmentProblem


def test_migrations_are_made_once_and_in_order() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    steps = ("CREATE TABLE a (x);", "ALTER TABLE a ADD COLUMN y;")
    schema.migrate(db, steps[:1])
    db.execute("INSERT INTO a VALUES (1)")
    schema.migrate(db, steps)
    schema.migrate(db, steps)
    assert schema.version(db) == 2 and db.execute("SELECT x, y FROM a").fetchall() == [(1, None)]
    db.close()


def test_a_migration_that_fails_leaves_the_old_state() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(sqlite3.Error):
        schema.migrate(db, ("CREATE TABLE a (x); CREATE TABLE a (x);",))
    db.execute("ROLLBACK")
    assert schema.version(db) == 0 and db.execute("SELECT name FROM sqlite_master").fetchall() == []
    db.close()


def test_an_index_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    db = database.connect(tmp_path / "i", create=True)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(EnvironmentProblem, match="version 99, not 1; update blip"):
        database.connect(tmp_path / "i")


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    db = database.connect(tmp_path / "i", create=True)
    with database.transaction(db, tmp_path):
        db.execute("INSERT INTO pending VALUES (1, ?)", (bytes(512),))
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(EnvironmentProblem, match="no space left"), database.transaction(db, tmp_path):
        db.executemany("INSERT INTO pending VALUES (?, ?)", [(i, bytes(4096)) for i in range(2, 50)])
    assert db.execute("SELECT count(*) FROM pending").fetchone() == (1,)
    db.close()
