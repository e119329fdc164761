"""Update of an index: new files are embedded, moved files keep their vectors, deleted files are dropped.

Work is committed batch by batch, and a picture is identified by the hash of its file, so an interrupted run loses at
most one batch. Nothing is dropped before all new files have been read: that is how a moved file keeps its vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from blip.apps.search import identity, scan, vectors
from blip.apps.search.database import STILL, Database
from blip.apps.search.reading import Content, Picture, Reader
from blip.apps.search.scan import IndexedFile, Root, ScannedFile, display_path
from blip_lite.image import MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blip.apps.search.identity import Identity
    from blip_lite.model import Model

FOLD_EVERY = 50_000  # vectors: until then every search reads them from the database
MAX_BATCH_FILES = 256  # files committed together if few of them need the model
Progress = Callable[[int, int], bool]  # (files done, files in all); return False to stop


@dataclass
class UpdateReport:
    """Number of files by what happened to them. `failed`: (path, reason). `missing`: folders that do not exist now."""

    new: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    captioned: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """Options for reading and captioning files. `captioner` may be a function, called once a photo needs a caption."""

    captioner: Model | Callable[[], Model] | None = None
    workers: int = 2
    max_pixels: int = MAX_PIXELS
    batch_size: int | None = None
    progress: Progress = lambda done, total: True


class Updater:
    """One update of some folders, by the only writer. `get_model` is called once a photo needs a vector."""

    def __init__(self, db: Database, get_model: Callable[[], Model], options: UpdateOptions) -> None:
        self.db, self.get_model, self.options = db, get_model, options
        self.report = UpdateReport()
        self.known = db.files()
        self.hashes = {row[0] for row in db.execute("SELECT DISTINCT hash FROM pictures")}
        query = "SELECT hash FROM pictures WHERE at = ? AND caption IS NULL"
        self.uncaptioned = {row[0] for row in db.execute(query, (STILL,))} if options.captioner is not None else set()
        self.identity: Identity | None = None  # of the model, once it is loaded
        self.repeated: Counter[bytes] = Counter()  # known hashes, by the number of files at new paths

    def run(self, roots: Sequence[Root]) -> UpdateReport:
        """Update the folders. A folder that does not exist now, such as an unplugged disk, keeps its photos."""
        listed: set[bytes] = set()
        existing = [root for root in roots if root.exists]
        self.report.missing = [display_path(root.path) for root in roots if not root.exists]
        for root in existing:
            files = [file for file in root.scan() if file.path not in listed]
            listed.update(file.path for file in files)
            if not self.report.stopped:
                self._add(root, files)
        if not self.report.stopped:
            self._drop(existing, listed)
            self._fold()
        return self.report

    def prune(self, roots: Sequence[Root]) -> UpdateReport:
        """Drop deleted files from the folders, and folders that no longer exist."""
        listed = {file.path for root in roots if root.exists for file in root.scan()}
        self._drop(roots, listed)
        with self.db.transaction():
            self.db.executemany("DELETE FROM roots WHERE id = ?", [(r.id,) for r in roots if not r.exists])
        self._fold()
        return self.report

    def _add(self, root: Root, files: Sequence[ScannedFile]) -> None:
        todo = []
        for file in files:
            known = self.known.get(file.path)
            if known is None or not known.matches(file):
                todo.append((file, False))
            elif known.hash in self.uncaptioned:
                todo.append((file, True))
        self.report.unchanged += len(files) - len(todo)
        if not todo:
            return
        reader = Reader(
            sizes=self._sizes(),
            frames=root.rules.frames,
            max_pixels=self.options.max_pixels,
            workers=self.options.workers,
            skip=self.hashes.__contains__,
        )
        batch: list[Content] = []
        contents = reader.read_all(todo)
        for done, content in enumerate(contents, 1):
            batch.append(content)
            if done == len(todo) or self._is_full(batch):
                self._commit(root, batch)
                batch = []
                if not self.options.progress(done, len(todo)):
                    self.report.stopped = True
                    contents.close()
                    return
                if self.db.count("pending") >= FOLD_EVERY:
                    self._fold()

    def _is_full(self, batch: Sequence[Content]) -> bool:
        pictures = sum(len(content.pictures) for content in batch)
        return len(batch) >= MAX_BATCH_FILES or (pictures > 0 and pictures >= self._batch_size())

    @cached_property
    def captioner(self) -> Model | None:
        """The model that writes captions, loaded at first use."""
        model = self.options.captioner
        if callable(model):
            model = model()
        if model is not None:
            model.require("caption")
        return model

    def _sizes(self) -> list[int]:
        known, captioner = identity.load(self.db), self.captioner
        size = self.get_model().config.vision.image_size if known is None else known.image_size
        return sorted({size, size if captioner is None else captioner.config.vision.image_size})

    def _batch_size(self) -> int:
        return self.options.batch_size or self.get_model().default_batch_size

    def _commit(self, root: Root, batch: Sequence[Content]) -> None:
        """Embed and caption the new pictures of some files, then write everything in one transaction."""
        new: dict[bytes, Sequence[Picture]] = {}
        for content in batch:
            if content.pictures and content.error is None and content.hash not in self.hashes:
                new.setdefault(content.hash, content.pictures)
        pictures = [(digest, picture) for digest, group in new.items() for picture in group]
        rows, model = self._embed([picture for _, picture in pictures])
        captions = self._caption(batch, new)
        with self.db.transaction():
            if model is not None:
                identity.save(self.db, model)
            ids = [self._insert_picture(digest, picture) for digest, picture in pictures]
            vectors.add(self.db, ids, rows)
            set_caption = "UPDATE pictures SET caption = ? WHERE hash = ? AND at = ?"
            self.db.executemany(set_caption, [(text, digest, STILL) for digest, text in captions.items()])
            for content in batch:
                self._insert_file(root, content)
        self._count(batch, new)
        self.report.captioned += len(captions)
        self.uncaptioned -= captions.keys()
        self.hashes |= new.keys()

    def _embed(self, pictures: Sequence[Picture]) -> tuple[NDArray[np.float32], Identity | None]:
        if not pictures:
            return np.empty((0, 0), np.float32), None
        model = self.get_model()
        size = model.config.vision.image_size
        if self.identity is None:
            self.identity = identity.identity_of(model, identity.load(self.db))
        return model.embed_image_batch([picture.images[size] for picture in pictures]).vectors, self.identity

    def _caption(self, batch: Sequence[Content], new: dict[bytes, Sequence[Picture]]) -> dict[bytes, str]:
        """Captions by hash, of stills that are new or have none yet."""
        if self.options.captioner is None:
            return {}
        stills = {
            content.hash: content.pictures[0]
            for content in batch
            if content.pictures
            and content.pictures[0].at == STILL
            and (content.hash in new or content.hash in self.uncaptioned)
        }
        model = self.captioner if stills else None
        if model is None:
            return {}
        size = model.config.vision.image_size
        captions = model.caption_batch([picture.images[size] for picture in stills.values()])
        return {digest: caption.text for digest, caption in zip(stills, captions, strict=True)}

    def _insert_picture(self, digest: bytes, picture: Picture) -> int:
        values: list[Any] = [digest, picture.at, None, None]  # Any: SQLite values
        if picture.at == STILL:
            values[2:] = picture.phash - (1 << 64 if picture.phash >> 63 else 0), picture.pixels
        row = self.db.execute("INSERT INTO pictures (hash, at, phash, pixels) VALUES (?, ?, ?, ?)", values)
        assert row.lastrowid is not None
        return row.lastrowid

    def _insert_file(self, root: Root, content: Content) -> None:
        if content.error is not None and not content.permanent:
            return  # read again by the next update
        file = content.file
        before = self.known.get(file.path)
        owner = root.id if before is None else before.root
        if before is not None and before.hash != content.hash:
            self._set_dirty()
        row = (file.path, owner, file.size, file.mtime, content.hash, content.error)
        self.db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", row)

    def _count(self, batch: Sequence[Content], new: dict[bytes, Sequence[Picture]]) -> None:
        first = dict.fromkeys(new, True)
        for content in batch:
            before = self.known.get(content.file.path)
            if content.error is not None:
                self.report.failed.append((display_path(content.file.path), content.error))
            elif before is not None and before.hash == content.hash and before.error is None:
                self.report.unchanged += 1
            elif before is not None:
                self.report.changed += 1
            elif first.pop(content.hash, False):
                self.report.new += 1
            else:
                self.repeated[content.hash] += 1
            if content.error is None or content.permanent:
                file = content.file
                owner = 0 if before is None else before.root
                self.known[file.path] = IndexedFile(owner, file.size, file.mtime, content.hash, content.error)

    def _drop(self, roots: Sequence[Root], listed: set[bytes]) -> None:
        """Delete files that are no longer in their folder, and pictures without a file."""
        exists = {root.id: root.exists for root in roots}
        removed = [
            (path, file.hash)
            for path, file in self.known.items()
            if file.root in exists and path not in listed and (not exists[file.root] or scan.is_removed(path))
        ]
        elsewhere = self._in_other_roots(roots, [path for path, _ in removed])
        removed = [(path, digest) for path, digest in removed if path not in elsewhere]
        moved = sum((Counter(digest for _, digest in removed) & self.repeated).values())
        self.report.moved += moved
        self.report.copied += self.repeated.total() - moved
        self.report.removed += len(removed) - moved
        if not removed and not self._is_dirty():
            return
        with self.db.transaction():
            self._set_dirty()
            self.db.executemany("DELETE FROM files WHERE path = ?", [(path,) for path, _ in removed])
            self.db.execute("DELETE FROM pictures WHERE hash NOT IN (SELECT hash FROM files WHERE error IS NULL)")
            self.db.execute("DELETE FROM pending WHERE id NOT IN (SELECT id FROM pictures)")

    def _in_other_roots(self, roots: Sequence[Root], paths: Sequence[bytes]) -> set[bytes]:
        """Files listed by indexed folders outside this update, of those folders that contain one of the paths."""
        ids = {root.id for root in roots}
        others = [root for root in self.db.roots() if root.id not in ids and root.exists]
        parents = [root for root in others if any(path.startswith(scan.prefix_range(root.path)[0]) for path in paths)]
        return {file.path for root in parents for file in root.scan()}

    def _is_dirty(self) -> bool:
        """Return whether pictures without a file or vectors without a picture may exist; `fold` removes them."""
        return self.db.get_meta("dirty") is not None

    def _set_dirty(self) -> None:
        self.db.set_meta(dirty=1)

    def _fold(self) -> None:
        known = identity.load(self.db)
        if known is not None and (self.db.count("pending") or self._is_dirty()):
            vectors.fold(self.db, known.width)
