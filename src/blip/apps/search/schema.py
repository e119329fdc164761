"""What an index's SQLite file holds, as numbered migrations; `PRAGMA user_version` says how many have been made.

Paths are bytes, as the file system has them. A picture is a still (`at` = -1) or a frame of a video (`at` in
milliseconds), known by the SHA-256 of its file: copies share it, and a moved file keeps it.
"""

from __future__ import annotations

import sqlite3

MIGRATIONS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE roots (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, rules TEXT NOT NULL);
    CREATE TABLE files (
        path BLOB PRIMARY KEY,
        root INTEGER NOT NULL,       -- whose listing has found it
        size INTEGER NOT NULL,
        mtime INTEGER NOT NULL,      -- nanoseconds
        hash BLOB NOT NULL,
        error TEXT                   -- why there is no picture of it
    ) WITHOUT ROWID;
    CREATE INDEX files_of_hash ON files (hash);
    CREATE TABLE pictures (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: a vector file may still hold the old one
        hash BLOB NOT NULL,
        at INTEGER NOT NULL,
        caption TEXT,
        UNIQUE (hash, at)
    );
    CREATE TABLE pending (id INTEGER PRIMARY KEY, vector BLOB NOT NULL);  -- not yet in the vector file
    CREATE TABLE written (path BLOB PRIMARY KEY, image BLOB NOT NULL, hash BLOB NOT NULL) WITHOUT ROWID;  -- sidecars
    """,
)
STILL = -1


def migrate(db: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Brings a database to the newest schema; each step is made whole or not at all."""
    for number in range(version(db) + 1, len(migrations) + 1):
        db.executescript(f"BEGIN IMMEDIATE; {migrations[number - 1]} PRAGMA user_version = {number}; COMMIT;")


def version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
