"""`blip.Index`: photos of folders, remembered as vectors in one folder on the disk, and found again."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from blip.apps.search import database, duplicates, find, identity, sidecars, tables, update, walk
from blip.apps.search.access import Access
from blip.apps.search.identity import Identity
from blip.apps.search.query import Part
from blip.apps.search.update import Report, Tick, Work
from blip.apps.search.walk import Root, Rules
from blip.io import fetch
from blip_lite.errors import UsageError
from blip_lite.image import MAX_PIXELS
from blip_lite.results import Hit

if TYPE_CHECKING:
    from blip.api import Model
    from blip.apps.search.sidecars import Written

WORKERS = min(4, os.cpu_count() or 1)


def default_folder() -> Path:
    """Where the index is if nobody says otherwise."""
    return fetch.home_dir() / "index"


@dataclass(frozen=True)
class Status:
    """How much an index holds. `failed`: (path, reason) of files that could not be read."""

    folder: Path
    model: Identity | None
    folders: list[str]
    files: int
    pictures: int
    frames: int
    captions: int
    bytes: int
    failed: list[tuple[str, str]]


class Index:
    """An index of photos. Searching never waits for the one process that may be writing.

    A call from several threads is served; `model` may be a function that loads it when it is first needed.
    """

    def __init__(self, folder: Path, model: Model | Callable[[], Model] | None) -> None:
        self.folder, self.access = folder, Access(folder)
        self._given, self._model = model, None if callable(model) else model
        self._checked: Identity | None = None
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str] | None = None, model: Model | Callable[[], Model] | None = None
    ) -> Self:
        """The index in a folder, by default `$BLIP_HOME/index`; the first `add_dir` makes it."""
        path = default_folder() if folder is None else walk.real(Path(folder))
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path}: is a file; an index is a folder")
        return cls(path, model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.access.close()

    @property
    def is_there(self) -> bool:
        """Whether something was ever added."""
        return self.access.is_there

    def model(self) -> Model:
        """The model, loaded if it was not. Raises CheckpointMismatch where the index was made with another."""
        with self._lock:
            if self._model is None:
                if self._given is None:
                    raise UsageError("this index was opened without a model; give Index.open(..., model=...)")
                self._model = self._given() if callable(self._given) else self._given
                self._model.require("match")
            known = self.identity() if self.is_there else None
            if known is not None and known != self._checked:
                known.check(self.folder, identity.identity_of(self._model, known))
                self._checked = known
            return self._model

    def identity(self) -> Identity | None:
        """The model that the index was made with; None before its first photo."""
        with self.access.reading() as db:
            return identity.load(db)

    def roots(self) -> list[Root]:
        """The folders that are kept up to date."""
        with self.access.reading() as db:
            return tables.roots(db)

    def add_dir(
        self,
        folder: str | os.PathLike[str],
        *,
        recursive: bool = True,
        hidden: bool = False,
        globs: Sequence[str] = (),
        video: bool = False,
        frames: int = 8,
        captioner: Model | Callable[[], Model] | None = None,
        workers: int = WORKERS,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        tick: Tick | None = None,
    ) -> Report:
        """Adds a folder, or brings it up to date; it is kept up to date by `update` from then on.

        video: `frames` of each video too. captioner: a model that captions each photo that has none yet. tick: told
        (files done, files in all) after each batch; False stops, and what is done is kept. A file that cannot be
        read is in the report, and tried again when it has changed. Waits for another writer.
        """
        path = walk.root_of(folder)
        rules = Rules(recursive=recursive, hidden=hidden, globs=tuple(globs), video=video, frames=frames)
        work = self.work(captioner, workers=workers, batch_size=batch_size, max_pixels=max_pixels, tick=tick)
        return self.update([(path, rules)], work=work)

    def work(
        self,
        captioner: Model | Callable[[], Model] | None = None,
        *,
        workers: int = WORKERS,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        tick: Tick | None = None,
    ) -> Work:
        """How an update of this index is to be done; see `add_dir`."""

        def captions() -> Model:
            assert captioner is not None
            found = captioner() if callable(captioner) else captioner
            found.require("caption")
            return found

        return Work(
            model=self.model,
            captioner=None if captioner is None else captions,
            workers=workers,
            batch_size=batch_size,
            max_pixels=max_pixels,
            tick=tick or (lambda done, total: True),
        )

    def update(
        self,
        folders: Sequence[tuple[bytes, Rules]] = (),
        *,
        work: Work | None = None,
        waiting: Callable[[], None] | None = None,
    ) -> Report:
        """Brings folders up to date, or all that are known.

        waiting: called when another process is writing and this one has to wait.
        """
        with self.access.writing(waiting, create=bool(folders)) as db:
            found = [tables.add_root(db, self.folder, path, rules) for path, rules in folders] or tables.roots(db)
            return update.Updater(db, self.folder, work or self.work()).run(found)

    def changes(self, folders: Sequence[tuple[bytes, Rules]] = ()) -> list[str]:
        """The files that `update` would read: new ones, and those of another size or time."""
        with self.access.reading() if self.is_there else nullcontext() as db:
            known = {} if db is None else tables.known(db)
            roots = [Root(0, *folder) for folder in folders] or ([] if db is None else tables.roots(db))
            found = {one.path: one for root in roots if root.is_there for one in walk.files(root)}
        return [walk.shown(p) for p, one in found.items() if p not in known or not known[p].is_same(one)]

    def prune(
        self, folders: Sequence[str | os.PathLike[str]] = (), *, waiting: Callable[[], None] | None = None
    ) -> Report:
        """Drops photos that are gone from some indexed folders or all, and folders that are gone; adds nothing."""
        with self.access.writing(waiting) as db:
            known = {root.path: root for root in tables.roots(db)}
            wanted = [walk.absolute(folder) for folder in folders] or list(known)
            strange = next((path for path in wanted if path not in known), None)
            if strange is not None:
                raise UsageError(f"{walk.shown(strange)}: is not an indexed folder; 'blip index --status' lists them")
            return update.Updater(db, self.folder, self.work()).prune([known[path] for path in wanted])

    def search(
        self,
        query: Any,
        *,
        top: int = 10,
        rerank: int = 128,
        under: str | os.PathLike[str] | None = None,
        min_score: float | None = None,
        workers: int = WORKERS,
    ) -> list[Hit]:
        """The best `top` photos for a text (a `str`), a photo (anything else that is one), or a list of these.

        By the sum of the cosines, in which `Part`s have weights; then the best `rerank` by match logit + cosine, where
        there is a text. under: only photos in this folder. min_score: of `Hit.score`.
        """
        several = query if isinstance(query, list | tuple) else [query]
        parts = [one if isinstance(one, Part) else Part(one) for one in several]
        if top < 1 or rerank < 0:
            raise UsageError(f"top {top}, rerank {rerank}; must be at least 1 and 0")
        self.identity()  # no index is said before a model is loaded
        model = self.model()
        vector = find.vector_of(model, parts)
        with self.access.snapshot() as (db, state):
            if state is None:
                return []
            inside = None if under is None else self._inside(db, under)
            found = find.nearest(db, state, vector, max(top, rerank), inside)
        found = find.rerank(model, parts, found, rerank, workers)
        return find.hits(found, top, min_score)

    def duplicates(self, threshold: float = 0.97, *, under: str | os.PathLike[str] | None = None) -> list[list[Hit]]:
        """Groups of near-identical photos: those joined by cosines of at least `threshold`. Needs no model."""
        if not 0 < threshold <= 1:
            raise UsageError(f"--duplicates {threshold}; must be more than 0 and at most 1")
        with self.access.snapshot() as (db, state):
            inside = None if under is None else self._inside(db, under)
            return [] if state is None else duplicates.groups(db, state, threshold, inside)

    def status(self) -> Status:
        """What the index holds; needs no model."""
        with self.access.reading() as db, database.failures(self.folder):
            counts = tables.counts(db)
            rows = db.execute("SELECT path, error FROM files WHERE error IS NOT NULL ORDER BY path")
            counts["failed"] = [(walk.shown(path), reason) for path, reason in rows]
            size = sum(map(_bytes_of, self.folder.iterdir()))
            return Status(folder=self.folder, model=identity.load(db), bytes=size, **counts)

    def clear(self, *, folders: bool = False, waiting: Callable[[], None] | None = None) -> None:
        """Forgets all photos and their model, and with `folders` these too. A damaged index is removed whole."""
        with self._lock:
            self.close()
            self._checked = None
        try:
            with self.access.writing(waiting) as db:
                tables.clear(db, self.folder, roots=folders)
        except database.Damaged:
            with self.access.exclusive(waiting):
                self.close()
                database.remove(self.folder)

    def write_captions(self, extension: str, *, under: str | os.PathLike[str] | None = None) -> Written:
        """Stored captions as `.txt` or `.xmp` beside the photos; files of others are left as they are."""
        with self.access.writing() as db:
            inside = None if under is None else self._inside(db, under)
            return sidecars.write(db, self.folder, extension, inside)

    def remove_captions(self, *, under: str | os.PathLike[str] | None = None) -> Written:
        """Removes what `write_captions` wrote, but for what was changed since."""
        with self.access.writing() as db:
            return sidecars.remove(db, self.folder, None if under is None else walk.absolute(under))

    def _inside(self, db: sqlite3.Connection, folder: str | os.PathLike[str]) -> bytes:
        path = walk.absolute(folder)
        if db.execute("SELECT 1 FROM files WHERE path >= ? AND path < ?", walk.below(path)).fetchone() is None:
            raise UsageError(
                f"{os.fspath(folder)}: nothing of it is indexed; 'blip index {os.fspath(folder)}' does that"
            )
        return path


def _bytes_of(path: Path) -> int:
    """0 for what a writer has just taken away."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
