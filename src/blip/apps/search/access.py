"""Who may do what with the folder of an index: many readers at any time, and one writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from blip.apps.search import database, identity, vectors
from blip_lite.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from blip.apps.search.vectors import Vectors

LOCK = ".writer.lock"


class Access:
    """The folder of an index, with the connection and the vectors of this reader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db: sqlite3.Connection | None = None
        self._state: Vectors | None = None
        self._lock = threading.RLock()

    @property
    def is_there(self) -> bool:
        """Whether something was ever added."""
        return (self.folder / database.FILE).is_file()

    def close(self) -> None:
        with self._lock:
            self._state = None
            if self._db is not None:
                self._db.close()
                self._db = None

    @contextmanager
    def writing(
        self, waiting: Callable[[], None] | None = None, *, create: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """The database for the one writer of all processes; others wait here."""
        if not create and not self.is_there:
            raise UsageError(f"{self.folder}: no index here; 'blip index DIR' makes one")
        database.make_folder(self.folder)
        with self.exclusive(waiting):
            db = database.connect(self.folder, create=True)
            try:
                with database.failures(self.folder):
                    yield db
            finally:
                db.close()

    @contextmanager
    def exclusive(self, waiting: Callable[[], None] | None) -> Iterator[None]:
        """No other process, or thread, writes inside. `waiting` is called when one does and this one has to wait.

        What it raises ends the waiting before it begins.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
        except OSError as error:
            raise EnvironmentProblem(f"{self.folder}: index cannot be written ({error.strerror or error})") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The database for a reader. Raises UsageError where there is none."""
        with self._lock:
            if self._db is None:
                self._db = database.connect(self.folder)
            with database.failures(self.folder):
                yield self._db

    @contextmanager
    def snapshot(self) -> Iterator[tuple[sqlite3.Connection, Vectors | None]]:
        """One state of database and vectors, whatever a writer does meanwhile; no vectors before the first photo."""
        with self.reading() as db:
            for attempt in (1, 2, 3):
                with database.transaction(db, self.folder, "DEFERRED"):
                    known = identity.load(db)
                    try:
                        if known is not None:
                            self._state = vectors.read(db, self.folder, known.width, self._state)
                    except FileNotFoundError as error:  # a writer has just put the next one in its place
                        if attempt == 3:
                            raise database.Damaged(self.folder, f"{error.filename} is missing") from error
                        continue
                    yield db, None if known is None else self._state
                    return
