"""The SQLite file of an index: opened for readers or for the one writer, its failures as one line."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from blip.apps.search import schema
from blip.io.atomic import writing
from blip_lite.errors import CheckpointError, EnvironmentProblem, UsageError

FILE = "index.db"
WAIT_SECONDS = 30.0  # for another process's transaction, which takes milliseconds


def connect(folder: Path, *, create: bool = False) -> sqlite3.Connection:
    """The database of the index in `folder`. Raises UsageError where there is none, EnvironmentProblem, Damaged."""
    path = folder / FILE
    if create:
        make_folder(folder)
    elif not path.is_file():
        raise UsageError(f"{folder}: no index here; 'blip index DIR' makes one")
    with failures(folder):
        db = _open(path, "rwc" if create else "rw")
    try:
        with failures(folder):
            if create:
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; `vectors.fold` gives pages back
                db.execute("PRAGMA journal_mode = WAL")  # readers see the last whole transaction and never wait
                db.execute("PRAGMA synchronous = NORMAL")
                schema.migrate(db)
            _check_version(folder, schema.version(db))
    except BaseException:
        db.close()
        raise
    return db


def _check_version(folder: Path, found: int) -> None:
    if found == len(schema.MIGRATIONS):
        return
    advice = "update blip" if found > len(schema.MIGRATIONS) else "run 'blip index' once"
    raise EnvironmentProblem(
        f"{folder}: index of version {found}, not {len(schema.MIGRATIONS)}; {advice}, or make it anew: --rebuild"
    )


@contextmanager
def transaction(db: sqlite3.Connection, folder: Path, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """All or nothing of what happens inside; `DEFERRED` for a reader, who sees one state throughout."""
    with failures(folder):
        db.execute(f"BEGIN {kind}")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


class Damaged(CheckpointError):
    """An index that cannot be read any more."""

    def __init__(self, folder: Path, reason: object) -> None:
        super().__init__(f"{folder}: index is damaged ({reason}); make it anew: blip index --rebuild DIR")


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """What SQLite says, as an error of this program."""
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


def remove(folder: Path) -> None:
    """Deletes an index that cannot be opened any more; its folder stays."""
    for path in [*folder.glob(f"{FILE}*"), *folder.glob("vectors-*.usearch")]:
        with writing(path):
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes the folder of an index. Raises UsageError where it is used for other things, EnvironmentProblem."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        others = [name for name in os.listdir(folder) if not name.startswith((FILE, "vectors-", "."))]
    if others and not (folder / FILE).exists():
        raise UsageError(f"{folder}: holds other files ({others[0]}, ...); an index needs a folder of its own")
    if not os.access(folder, os.W_OK):
        raise EnvironmentProblem(f"{folder}: index cannot be written (no write permission)")


def is_writable(folder: Path) -> bool:
    """Whether the index in a folder may be written."""
    return os.access(folder, os.W_OK) and os.access(folder / FILE, os.W_OK)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    """A connection without transactions of its own; read-only where the index may not be written."""
    if mode == "rw" and not is_writable(path.parent):
        # nothing can be put beside the file, so there is no write-ahead log to be read either
        mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)
