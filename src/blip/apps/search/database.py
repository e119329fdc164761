"""SQLite database of an index: schema, connections, transactions, the writer lock and statements on whole tables.

Paths are stored as bytes, as the file system returns them. A picture is a still image (`at` = -1) or a video frame
(`at` in milliseconds), identified by the SHA-256 of its file: copies share a picture, and a moved file keeps it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from blip.apps.search.scan import IndexedFile, Root, Rules
from blip.io.disk import writing
from blip_lite.errors import BlipError, CheckpointError, EnvironmentProblem, UsageError

FILE = "index.db"
LOCK = ".writer.lock"
STILL = -1  # `at` of a picture that is not a video frame
WAIT_SECONDS = 30.0  # for another process's transaction, which takes milliseconds
MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE roots (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, rules TEXT NOT NULL);
    CREATE TABLE files (
        path BLOB PRIMARY KEY,
        root INTEGER NOT NULL,       -- the root whose scan listed the file
        size INTEGER NOT NULL,
        mtime INTEGER NOT NULL,      -- nanoseconds
        hash BLOB NOT NULL,
        error TEXT                   -- why the file has no picture
    ) WITHOUT ROWID;
    CREATE INDEX files_of_hash ON files (hash);
    CREATE TABLE pictures (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: a vector file may still contain a deleted id
        hash BLOB NOT NULL,
        at INTEGER NOT NULL,
        caption TEXT,
        UNIQUE (hash, at)
    );
    CREATE TABLE pending (id INTEGER PRIMARY KEY, vector BLOB NOT NULL);  -- not yet in the vector file
    CREATE TABLE sidecars (path BLOB PRIMARY KEY, image BLOB NOT NULL, hash BLOB NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE pictures ADD COLUMN phash INTEGER;   -- of stills: see blip.io.perceptual_hash, as a signed integer
    ALTER TABLE pictures ADD COLUMN pixels INTEGER;  -- of stills: width times height
    DELETE FROM files;                               -- the next update reads all photos again
    DELETE FROM pictures;
    DELETE FROM pending;
    """,
)


class Damaged(CheckpointError):
    """An index that can no longer be read."""

    def __init__(self, folder: Path, reason: object, *, folders: str = " DIR") -> None:
        """`folders`: "" if the indexed folders are still known."""
        super().__init__(f"{folder}: index is damaged ({reason}); rebuild it: blip index --rebuild{folders}")


class WrongVersion(EnvironmentProblem):
    """An index of another version of this program."""


class Database(sqlite3.Connection):
    """Connection to the database of the index in `folder`."""

    folder: Path

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """Commit everything inside or nothing; with `DEFERRED` a reader sees one consistent state."""
        with translate_errors(self.folder):
            self.execute(f"BEGIN {kind}")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self.in_transaction:
                    self.execute("ROLLBACK")
                raise

    def count(self, what: str, *values: Any) -> int:  # Any: SQLite values
        """Number of rows; `what` is a table and, optionally, its WHERE clause."""
        return int(self.execute(f"SELECT count(*) FROM {what}", values).fetchone()[0])

    def roots(self) -> list[Root]:
        """Indexed folders in the order they were added."""
        rows = self.execute("SELECT id, path, rules FROM roots ORDER BY id")
        return [Root(id, path, Rules.from_json(rules)) for id, path, rules in rows]

    def add_root(self, path: bytes, rules: Rules) -> Root:
        """Add an indexed folder, or replace its rules."""
        with self.transaction():
            self.execute(
                "INSERT INTO roots (path, rules) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET rules = excluded.rules",
                (path, rules.to_json()),
            )
        return next(root for root in self.roots() if root.path == path)

    def files(self) -> dict[bytes, IndexedFile]:
        """All files of the index by path, including those that could not be read."""
        rows = self.execute("SELECT path, root, size, mtime, hash, error FROM files")
        return {path: IndexedFile(*values) for path, *values in rows}

    def check(self) -> None:
        """Raise Damaged if the database is not consistent or lacks a table."""
        with translate_errors(self.folder):
            for table in ("meta", "roots", "files", "pictures", "pending", "sidecars"):
                self.execute(f"SELECT 1 FROM {table} LIMIT 1")
            problem = self.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise Damaged(self.folder, " ".join(str(problem).split()))

    def get_meta(self, name: str) -> Any:  # Any: SQLite values
        """Value stored under a name; None if there is none."""
        row = self.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, **values: Any) -> None:  # Any: SQLite values
        self.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def connect(folder: Path, *, create: bool = False) -> Database:
    """Open the database of an index. Raises UsageError if it does not exist, EnvironmentProblem, Damaged."""
    if create:
        make_folder(folder)
    elif not (folder / FILE).is_file():
        raise missing_index(folder)
    with translate_errors(folder):
        db = _open(folder, "rwc" if create else "rw")
    try:
        with translate_errors(folder):
            if create:
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # new files only; `vectors.fold` returns free pages
                db.execute("PRAGMA journal_mode = WAL")  # readers see the last whole transaction and never wait
                db.execute("PRAGMA synchronous = NORMAL")
                migrate(db)
            number = version(db)
            if not number and any(folder.glob("vectors-*")):
                raise Damaged(folder, f"{FILE} is empty")
            _check_version(folder, number)
    except BaseException:
        db.close()
        raise
    return db


def missing_index(folder: Path) -> BlipError:
    if any(folder.glob("vectors-*")):
        return Damaged(folder, f"{FILE} is missing")
    return UsageError(f"{folder}: no index here; create one with 'blip index DIR'")


def migrate(db: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring a database to the newest schema; each step is applied completely or not at all."""
    for number in range(version(db) + 1, len(migrations) + 1):
        db.executescript(f"BEGIN IMMEDIATE; {migrations[number - 1]} PRAGMA user_version = {number}; COMMIT;")


def version(db: sqlite3.Connection) -> int:
    """Number of migrations applied."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check_version(folder: Path, number: int) -> None:
    if number == len(MIGRATIONS):
        return
    advice = "update blip" if number > len(MIGRATIONS) else "run 'blip index' once"
    raise WrongVersion(
        f"{folder}: index has version {number}, not {len(MIGRATIONS)}; {advice}, or rebuild it: "
        "blip index --rebuild DIR"
    )


@contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Raise SQLite's errors as errors of this program."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise EnvironmentProblem(f"{folder}: no space left on the disk; what is indexed is kept") from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
            raise EnvironmentProblem(f"{folder}: index cannot be written or read ({error})") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise EnvironmentProblem(f"{folder}: index is in use by another process; try again") from error
        raise Damaged(folder, error) from error


@contextmanager
def writer_lock(folder: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Exclude other writers, in this process and others. `on_wait` is called before waiting; it may raise instead."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire()
    except OSError as error:
        raise EnvironmentProblem(f"{folder}: index cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def make_folder(folder: Path) -> None:
    """Create the folder of an index. Raises UsageError if it contains other files, EnvironmentProblem."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        others = [name for name in os.listdir(folder) if not name.startswith((FILE, "vectors-", "."))]
    if others and not (folder / FILE).exists():
        raise UsageError(f"{folder}: contains other files ({others[0]}, ...); an index needs a folder of its own")
    if not os.access(folder, os.W_OK):
        raise EnvironmentProblem(f"{folder}: index cannot be written (no write permission)")


def is_writable(folder: Path) -> bool:
    """Return whether this process may write the index in a folder."""
    return os.access(folder, os.W_OK) and os.access(folder / FILE, os.W_OK)


def _open(folder: Path, mode: str) -> Database:
    """Open without implicit transactions; read-only if the index cannot be written."""
    path = folder / FILE
    if mode == "rw" and not is_writable(folder):
        # no file can be created beside it, so without an existing write-ahead log there is none to read
        mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
    db = sqlite3.connect(
        f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=WAIT_SECONDS,
        check_same_thread=False,
        factory=Database,
    )
    db.folder = folder
    return db
