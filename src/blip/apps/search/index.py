"""`blip.Index`: the photos of folders, stored as vectors in one folder on disk, and search in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from blip.apps.search import database, duplicates, identity, rebuild, scan, sidecars, similar, vectors
from blip.apps.search.database import Database
from blip.apps.search.duplicates import DuplicateReport
from blip.apps.search.identity import Identity
from blip.apps.search.query import Part, nearest, query_vector, rerank_candidates, to_hits
from blip.apps.search.scan import Root, Rules, display_path
from blip.apps.search.update import Progress, UpdateOptions, Updater, UpdateReport
from blip.apps.search.vectors import Vectors
from blip.io import fetch
from blip_lite.errors import UsageError
from blip_lite.image import MAX_PIXELS
from blip_lite.results import Hit

if TYPE_CHECKING:
    from blip.apps.search.sidecars import SidecarReport
    from blip_lite.model import Model

WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Status:
    """Contents of an index. `failed`: (path, reason) of files that could not be read."""

    folder: Path
    model: Identity | None
    folders: list[str]
    files: int
    pictures: int
    frames: int
    captions: int
    bytes: int
    failed: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Return the record of `blip index --status --json`."""
        model = self.model
        return {
            "index": str(self.folder),
            "model": None if model is None else model.model,
            "weights": None if model is None else model.weights,
            "image_size": None if model is None else model.image_size,
            "folders": self.folders,
            "files": self.files,
            "pictures": self.pictures,
            "frames": self.frames,
            "captions": self.captions,
            "failed": [{"path": path, "reason": reason} for path, reason in self.failed],
            "bytes": self.bytes,
        }


class Index:
    """An index of photos. Searching never waits for a process that is writing.

    Methods may be called from several threads; `model` may be a function that loads the model at first use.
    """

    def __init__(self, folder: Path, model: Model | Callable[[], Model] | None) -> None:
        self.folder = folder
        self._model_source, self._model = model, None if callable(model) else model
        self._checked: Identity | None = None
        self._model_lock = threading.RLock()
        self._db: Database | None = None
        self._vectors: Vectors | None = None
        self._db_lock = threading.RLock()

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str] | None = None, model: Model | Callable[[], Model] | None = None
    ) -> Self:
        """Return the index in a folder, by default `$BLIP_HOME/index`; the first `add_dir` creates it."""
        path = fetch.home_dir() / "index" if folder is None else Path(os.fsdecode(scan.absolute(folder)))
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path}: is a file; an index is a folder")
        return cls(path, model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with self._db_lock:
            self._vectors = None
            if self._db is not None:
                self._db.close()
                self._db = None

    @property
    def exists(self) -> bool:
        """Whether the index was created, by a first `add_dir`."""
        return (self.folder / database.FILE).is_file()

    @contextmanager
    def reader(self) -> Iterator[Database]:
        """Database for reading, kept open. Raises UsageError if the index does not exist."""
        with self._db_lock:
            if self._db is None:
                self._db = database.connect(self.folder)
            with database.translate_errors(self.folder):
                yield self._db

    @contextmanager
    def writer(self, on_wait: Callable[[], None] | None = None, *, create: bool = False) -> Iterator[Database]:
        """Database for the only writer; waits for a writer in another process or thread."""
        if not create and not self.exists:
            raise database.missing_index(self.folder)
        database.make_folder(self.folder)
        with database.writer_lock(self.folder, on_wait):
            db = database.connect(self.folder, create=True)
            try:
                with database.translate_errors(self.folder):
                    yield db
            finally:
                db.close()

    @contextmanager
    def snapshot(self) -> Iterator[tuple[Database, Vectors | None]]:
        """One consistent state of database and vectors while others write; no vectors before the first photo."""
        with self.reader() as db:
            for attempt in (1, 2, 3):
                with db.transaction("DEFERRED"):
                    known = identity.load(db)
                    try:
                        if known is not None:
                            self._vectors = vectors.read(db, known.width, self._vectors)
                    except FileNotFoundError as error:  # a writer has just replaced the file
                        if attempt == 3:
                            raise vectors.missing_file(self.folder, error) from error
                        continue
                    yield db, None if known is None else self._vectors
                    return

    def model(self) -> Model:
        """Return the model, loading it at first use. Raises CheckpointMismatch if another model created the index."""
        with self._model_lock:
            model = self.loaded_model()
            known = self.identity() if self.exists else None
            if known is not None and known != self._checked:
                known.check(self.folder, identity.identity_of(model, known))
                self._checked = known
            return model

    def loaded_model(self) -> Model:
        """Return the model, whether or not it created the index; it is loaded at first use."""
        with self._model_lock:
            if self._model is None:
                if self._model_source is None:
                    raise UsageError("this index was opened without a model; use Index.open(..., model=...)")
                self._model = self._model_source() if callable(self._model_source) else self._model_source
                self._model.require("match")
            return self._model

    def identity(self) -> Identity | None:
        """Identity of the model that created the index; None before its first photo."""
        with self.reader() as db:
            return identity.load(db)

    def has_photos(self) -> bool:
        """Return whether there is anything to search. Raises UsageError if the index does not exist."""
        with self.reader() as db:
            return db.execute("SELECT 1 FROM pictures LIMIT 1").fetchone() is not None

    def roots(self) -> list[Root]:
        """Indexed folders."""
        with self.reader() as db:
            return db.roots()

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
        progress: Progress = lambda done, total: True,
    ) -> UpdateReport:
        """Add a folder or bring it up to date; later calls of `update` include it.

        video: also index `frames` frames of each video. captioner: model that captions photos without a caption.
        progress: called with (files done, files in all) after each batch; False stops, keeping what is done.
        Unreadable files are in the report and are retried when they have changed. Waits for another writer.
        """
        rules = Rules(recursive=recursive, hidden=hidden, globs=tuple(globs), video=video, frames=frames)
        options = UpdateOptions(
            captioner=captioner, workers=workers, batch_size=batch_size, max_pixels=max_pixels, progress=progress
        )
        return self.update([(scan.root_path(folder), rules)], options=options)

    def update(
        self,
        folders: Sequence[tuple[bytes, Rules]] = (),
        *,
        options: UpdateOptions | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> UpdateReport:
        """Bring the given folders up to date, or all indexed ones.

        on_wait: called before waiting for another process that is writing.
        """
        options = options or UpdateOptions(workers=WORKERS)
        with self.writer(on_wait, create=bool(folders)) as db:
            roots = [db.add_root(path, rules) for path, rules in folders] or db.roots()
            return Updater(db, self.model, options).run(roots)

    def changes(self, folders: Sequence[tuple[bytes, Rules]] = ()) -> list[str]:
        """Return the files that `update` would read: new ones, and those of another size or time."""
        with self.reader() if self.exists else nullcontext() as db:
            known = {} if db is None else db.files()
            roots = [Root(0, *folder) for folder in folders] or ([] if db is None else db.roots())
            files = {file.path: file for root in roots if root.exists for file in root.scan()}
        return [display_path(p) for p, file in files.items() if p not in known or not known[p].matches(file)]

    def prune(
        self, folders: Sequence[str | os.PathLike[str]] = (), *, on_wait: Callable[[], None] | None = None
    ) -> UpdateReport:
        """Drop deleted photos of the given indexed folders or of all, and folders that no longer exist; add nothing."""
        with self.writer(on_wait) as db:
            known = {root.path: root for root in db.roots()}
            paths = [scan.absolute(folder) for folder in folders] or list(known)
            unknown = next((path for path in paths if path not in known), None)
            if unknown is not None:
                raise UsageError(
                    f"{display_path(unknown)}: not an indexed folder; list them with 'blip index --status'"
                )
            return Updater(db, self.model, UpdateOptions()).prune([known[path] for path in paths])

    def search(
        self,
        query: Any,  # Any: texts, images and vectors are distinguished at run time
        *,
        top: int = 10,
        rerank: int = 0,
        under: str | os.PathLike[str] | None = None,
        min_score: float | None = None,
        workers: int = WORKERS,
    ) -> list[Hit]:
        """Return the best `top` photos for a text (a `str`), a photo (any other image input), or a list of these.

        The score is the sum of the cosines, weighted by `Part.weight`; the best `rerank` photos are then ordered by
        match logit + cosine if the query contains a text. under: only photos in this folder. min_score: lower limit
        of `Hit.score`.
        """
        values = query if isinstance(query, list | tuple) else [query]
        parts = [value if isinstance(value, Part) else Part(value) for value in values]
        if top < 1 or rerank < 0:
            raise UsageError(f"top {top}, rerank {rerank}; must be at least 1 and 0")
        self.identity()  # reports a missing index before a model is loaded
        model = self.model()
        vector = query_vector(model, parts)
        with self.snapshot() as (db, state):
            if state is None:
                return []
            candidates = nearest(db, state, vector, max(top, rerank), _indexed_path(db, under))
        return to_hits(rerank_candidates(model, parts, candidates, rerank, workers), top, min_score)

    def duplicates(
        self,
        *,
        under: str | os.PathLike[str] | None = None,
        workers: int = WORKERS,
        progress: duplicates.Progress = lambda done, total: None,
    ) -> DuplicateReport:
        """Return groups of copies of a photo: equal files, re-encoded, resized, slightly cropped or brightened ones.

        Candidates, chosen by perceptual hash, are read and compared pixel by pixel. Needs no model.
        """
        with self.snapshot() as (db, state):
            photos = duplicates.list_photos(db, _indexed_path(db, under))
        if state is None:
            return DuplicateReport()
        return duplicates.find(photos, state, workers=workers, progress=progress)

    def similar(self, threshold: float = 0.97, *, under: str | os.PathLike[str] | None = None) -> list[list[Hit]]:
        """Return groups of similar photos, connected by cosines of at least `threshold`. Needs no model.

        They show the same kind of scene and are usually different photos; see `duplicates` for copies.
        """
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold {threshold}; must be more than 0 and at most 1")
        with self.snapshot() as (db, state):
            path = _indexed_path(db, under)
            return [] if state is None else similar.groups(db, state, threshold, path)

    def status(self) -> Status:
        """Return what the index contains; needs no model."""
        with self.reader() as db:
            failed = db.execute("SELECT path, error FROM files WHERE error IS NOT NULL ORDER BY path")
            return Status(
                folder=self.folder,
                model=identity.load(db),
                folders=[os.fsdecode(root.path) for root in db.roots()],
                files=db.count("files WHERE error IS NULL"),
                pictures=db.count("pictures"),
                frames=db.count("pictures WHERE at != ?", database.STILL),
                captions=db.count("pictures WHERE caption IS NOT NULL"),
                bytes=sum(map(_file_size, self.folder.iterdir())),
                failed=[(display_path(path), reason) for path, reason in failed],
            )

    def check(self) -> None:
        """Read the index completely. Raises Damaged for a missing or damaged file, EnvironmentProblem."""
        with self.snapshot() as (db, state):
            db.check()
            if state is not None:
                vectors.check(db, state)

    def rebuild(
        self,
        folders: Sequence[tuple[bytes, Rules]] = (),
        *,
        options: UpdateOptions | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> UpdateReport:
        """Index the given folders, or those of the index, again with the model of this object, which may be another.

        The present index, damaged or not, is replaced once the new one is complete. A stopped rebuild resumes.
        """
        roots = rebuild.choose_roots(self.folder, folders)
        database.make_folder(self.folder)
        with database.writer_lock(self.folder, on_wait):
            with rebuild.open_staging(self, roots) as staging:
                report = staging.update(roots, options=options)
                if report.stopped:
                    return report
            self.close()
            rebuild.replace(self.folder)
        return report

    def write_captions(self, extension: str, *, under: str | os.PathLike[str] | None = None) -> SidecarReport:
        """Write stored captions as `.txt` or `.xmp` files beside the photos; files of other programs are kept."""
        with self.writer() as db:
            return sidecars.write(db, extension, _indexed_path(db, under))

    def remove_captions(self, *, under: str | os.PathLike[str] | None = None) -> SidecarReport:
        """Remove the files that `write_captions` wrote, except those changed since."""
        with self.writer() as db:
            return sidecars.remove(db, None if under is None else scan.absolute(under))


def _indexed_path(db: Database, folder: str | os.PathLike[str] | None) -> bytes | None:
    """Stored path of a folder. Raises UsageError if it has no indexed file."""
    if folder is None:
        return None
    path, name = scan.absolute(folder), os.fspath(folder)
    if db.execute("SELECT 1 FROM files WHERE path >= ? AND path < ?", scan.prefix_range(path)).fetchone() is None:
        raise UsageError(f"{name}: contains no indexed file; index it with 'blip index {name}'")
    return path


def _file_size(path: Path) -> int:
    """Size in bytes; 0 for a file that a writer has just deleted."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
