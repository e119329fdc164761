"""What the tables of an index say of its folders and files, and what changes them as a whole."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from blip.apps.search.database import transaction
from blip.apps.search.schema import STILL
from blip.apps.search.walk import Known, Root, Rules


def roots(db: sqlite3.Connection) -> list[Root]:
    """All folders of an index, in the order they came."""
    rows = db.execute("SELECT id, path, rules FROM roots ORDER BY id")
    return [Root(number, path, Rules.from_json(rules)) for number, path, rules in rows]


def known(db: sqlite3.Connection) -> dict[bytes, Known]:
    return {row[0]: Known(*row[1:]) for row in db.execute("SELECT path, root, size, mtime, hash, error FROM files")}


def add_root(db: sqlite3.Connection, folder: Path, path: bytes, rules: Rules) -> Root:
    """Remembers a folder, or that it has other rules now."""
    with transaction(db, folder):
        db.execute(
            "INSERT INTO roots (path, rules) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET rules = excluded.rules",
            (path, rules.to_json()),
        )
    return next(root for root in roots(db) if root.path == path)


def clear(db: sqlite3.Connection, folder: Path, *, roots: bool) -> None:
    """Forgets all pictures and their model, and with `roots` the folders too; never what sidecars were written."""
    with transaction(db, folder):
        for table in ("files", "pictures", "pending", *(("roots",) if roots else ())):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM facts WHERE name LIKE 'model.%' OR name = 'crc'")


def counts(db: sqlite3.Connection) -> dict[str, Any]:
    """How much an index holds."""

    def count(what: str, *values: int) -> int:
        return int(db.execute(f"SELECT count(*) FROM {what}", values).fetchone()[0])

    return {
        "folders": [os.fsdecode(root.path) for root in roots(db)],
        "files": count("files WHERE error IS NULL"),
        "pictures": count("pictures"),
        "frames": count("pictures WHERE at != ?", STILL),
        "captions": count("pictures WHERE caption IS NOT NULL"),
    }
