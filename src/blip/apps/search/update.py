"""Brings an index up to date with its folders: what is new is embedded, what moved keeps its vector, what is gone goes.

Work is committed batch by batch, and a picture is known by the hash of its file, so a run that was cut off loses at
most a batch. Nothing is dropped before all that is new has been seen: that is how a moved file keeps its vector.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blip.apps.search import identity, tables, vectors, walk
from blip.apps.search.database import transaction
from blip.apps.search.reading import Content, Picture, Reader
from blip.apps.search.schema import STILL
from blip.apps.search.walk import Found, Known, Root, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blip.api import Model
    from blip.apps.search.identity import Identity

FOLD_EVERY = 50_000  # vectors: so many are read from the database by each search until then
QUICK = 256  # files that need no model, committed together
Tick = Callable[[int, int], bool]  # files done and in all; False = stop here


@dataclass
class Report:
    """What an update has done, in files. `failed`: (path, reason). `missing`: folders that are not there now."""

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
class Work:
    """How to read and embed. `model` and `captioner` are asked for when there is something to do for them."""

    model: Callable[[], Model]
    captioner: Callable[[], Model] | None = None
    workers: int = 2
    max_pixels: int
    batch_size: int | None = None
    tick: Tick = lambda done, total: True


class Updater:
    """One update of some folders; only the one writer may have it."""

    def __init__(self, db: sqlite3.Connection, folder: Path, work: Work) -> None:
        self.db, self.folder, self.work = db, folder, work
        self.report = Report()
        self.known = tables.known(db)
        self.hashes = {row[0] for row in db.execute("SELECT DISTINCT hash FROM pictures")}
        wanting = "SELECT hash FROM pictures WHERE at = ? AND caption IS NULL"
        self.uncaptioned = {row[0] for row in db.execute(wanting, (STILL,))} if work.captioner else set()
        self.identity: Identity | None = None  # of the model, once it is loaded
        self.repeated: Counter[bytes] = Counter()  # hashes of files at new places that were known before

    def run(self, roots: Sequence[Root]) -> Report:
        """Updates the folders. One that is not there now, as an unplugged disk, keeps its photos."""
        seen: set[bytes] = set()
        there = [root for root in roots if root.is_there]
        self.report.missing = [shown(root.path) for root in roots if not root.is_there]
        for root in there:
            found = [one for one in walk.files(root) if one.path not in seen]
            seen.update(one.path for one in found)
            if not self.report.stopped:
                self._add(root, found)
        if not self.report.stopped:
            self._drop(there, seen)
            self._fold()
        return self.report

    def prune(self, roots: Sequence[Root]) -> Report:
        """Drops what is gone from the folders, and folders that are gone."""
        seen = {one.path for root in roots if root.is_there for one in walk.files(root)}
        self._drop(roots, seen)
        with transaction(self.db, self.folder):
            self.db.executemany("DELETE FROM roots WHERE id = ?", [(r.id,) for r in roots if not r.is_there])
        self._fold()
        return self.report

    def _add(self, root: Root, found: Sequence[Found]) -> None:
        todo = [(one, self._lacks_caption(one)) for one in found if not self._is_done(one)]
        self.report.unchanged += len(found) - len(todo)
        if not todo:
            return
        reader = Reader(
            sizes=self._sizes(),
            frames=root.rules.frames,
            max_pixels=self.work.max_pixels,
            workers=self.work.workers,
            skip=self.hashes.__contains__,
        )
        batch: list[Content] = []
        contents = reader.all(todo)
        for done, content in enumerate(contents, 1):
            batch.append(content)
            if done == len(todo) or self._is_full(batch):
                self._commit(root, batch)
                batch = []
                if not self.work.tick(done, len(todo)):
                    self.report.stopped = True
                    contents.close()
                    return
                if self._pending() >= FOLD_EVERY:
                    self._fold()

    def _is_full(self, batch: Sequence[Content]) -> bool:
        pictures = sum(len(one.pictures) for one in batch)
        return len(batch) >= QUICK or (pictures > 0 and pictures >= self._batch_size())

    def _is_done(self, found: Found) -> bool:
        known = self.known.get(found.path)
        return known is not None and known.is_same(found) and not self._lacks_caption(found)

    def _lacks_caption(self, found: Found) -> bool:
        known = self.known.get(found.path)
        return known is not None and known.is_same(found) and known.hash in self.uncaptioned

    def _sizes(self) -> list[int]:
        known = identity.load(self.db)
        size = self.work.model().config.vision.image_size if known is None else known.image_size
        return sorted({size, self.work.captioner().config.vision.image_size if self.work.captioner else size})

    def _batch_size(self) -> int:
        return self.work.batch_size or self.work.model().default_batch_size

    def _commit(self, root: Root, batch: Sequence[Content]) -> None:
        """Embeds and captions what is new in some files, then writes all of it in one transaction."""
        fresh: dict[bytes, Sequence[Picture]] = {}
        for one in batch:
            if one.pictures and one.error is None and one.hash not in self.hashes:
                fresh.setdefault(one.hash, one.pictures)
        pictures = [(digest, picture) for digest, some in fresh.items() for picture in some]
        rows, model = self._embedded([picture for _, picture in pictures])
        captions = self._captions(batch, fresh)
        with transaction(self.db, self.folder):
            if model is not None:
                identity.save(self.db, model)
            ids = [self._insert(digest, picture) for digest, picture in pictures]
            vectors.add(self.db, ids, rows)
            set_caption = "UPDATE pictures SET caption = ? WHERE hash = ? AND at = ?"
            self.db.executemany(set_caption, [(text, digest, STILL) for digest, text in captions.items()])
            for content in batch:
                self._put(root, content)
        self._count(batch, fresh)
        self.report.captioned += len(captions)
        self.uncaptioned -= captions.keys()
        self.hashes |= fresh.keys()

    def _embedded(self, pictures: Sequence[Picture]) -> tuple[NDArray[np.float32], Identity | None]:
        if not pictures:
            return np.empty((0, 0), np.float32), None
        model = self.work.model()
        size = model.config.vision.image_size
        if self.identity is None:
            self.identity = identity.identity_of(model, identity.load(self.db))
        found = model.embed_image([picture.pixels[size] for picture in pictures])
        return found.vectors, self.identity

    def _captions(self, batch: Sequence[Content], fresh: dict[bytes, Sequence[Picture]]) -> dict[bytes, str]:
        """Captions of stills that are new or have none yet, by hash."""
        if self.work.captioner is None:
            return {}
        stills = {
            one.hash: one.pictures[0]
            for one in batch
            if one.pictures and one.pictures[0].at == STILL and (one.hash in fresh or one.hash in self.uncaptioned)
        }
        if not stills:
            return {}
        model = self.work.captioner()
        size = model.config.vision.image_size
        found = model.caption([picture.pixels[size] for picture in stills.values()])
        return {digest: caption.text for digest, caption in zip(stills, found, strict=True)}

    def _insert(self, digest: bytes, picture: Picture) -> int:
        row = self.db.execute("INSERT INTO pictures (hash, at) VALUES (?, ?)", (digest, picture.at))
        assert row.lastrowid is not None
        return row.lastrowid

    def _put(self, root: Root, content: Content) -> None:
        if content.error is not None and not content.lasting:
            return  # asked again next time
        file = content.file
        before = self.known.get(file.path)
        owner = root.id if before is None else before.root
        if before is not None and before.hash != content.hash:
            self._set_dirty()
        row = (file.path, owner, file.size, file.mtime, content.hash, content.error)
        self.db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", row)

    def _count(self, batch: Sequence[Content], fresh: dict[bytes, Sequence[Picture]]) -> None:
        first = dict.fromkeys(fresh, True)
        for content in batch:
            before = self.known.get(content.file.path)
            if content.error is not None:
                self.report.failed.append((shown(content.file.path), content.error))
            elif before is not None and before.hash == content.hash and before.error is None:
                self.report.unchanged += 1
            elif before is not None:
                self.report.changed += 1
            elif first.pop(content.hash, False):
                self.report.new += 1
            else:
                self.repeated[content.hash] += 1
            if content.error is None or content.lasting:
                file = content.file
                owner = 0 if before is None else before.root
                self.known[file.path] = Known(owner, file.size, file.mtime, content.hash, content.error)

    def _drop(self, roots: Sequence[Root], seen: set[bytes]) -> None:
        """Removes files that their folder no longer has, and pictures that no file has."""
        owners = {root.id: root.is_there for root in roots}
        gone = [
            (path, one.hash)
            for path, one in self.known.items()
            if one.root in owners and path not in seen and (not owners[one.root] or walk.is_gone(path))
        ]
        elsewhere = self._in_others(roots, [path for path, _ in gone])
        gone = [(path, digest) for path, digest in gone if path not in elsewhere]
        moved = sum((Counter(digest for _, digest in gone) & self.repeated).values())
        self.report.moved += moved
        self.report.copied += self.repeated.total() - moved
        self.report.removed += len(gone) - moved
        if not gone and not self._is_dirty():
            return
        with transaction(self.db, self.folder):
            self._set_dirty()
            self.db.executemany("DELETE FROM files WHERE path = ?", [(path,) for path, _ in gone])
            self.db.execute("DELETE FROM pictures WHERE hash NOT IN (SELECT hash FROM files WHERE error IS NULL)")
            self.db.execute("DELETE FROM pending WHERE id NOT IN (SELECT id FROM pictures)")

    def _in_others(self, roots: Sequence[Root], paths: Sequence[bytes]) -> set[bytes]:
        """Files in folders that this update is not about, of those folders around which one of the paths lies."""
        ids = {root.id for root in roots}
        others = [root for root in tables.roots(self.db) if root.id not in ids and root.is_there]
        around = [root for root in others if any(path.startswith(walk.below(root.path)[0]) for path in paths)]
        return {one.path for root in around for one in walk.files(root)}

    def _is_dirty(self) -> bool:
        """Whether there may be pictures without a file, or vectors without a picture; a fold ends that."""
        return self.db.execute("SELECT 1 FROM facts WHERE name = 'dirty'").fetchone() is not None

    def _set_dirty(self) -> None:
        self.db.execute("INSERT OR REPLACE INTO facts VALUES ('dirty', 1)")

    def _pending(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM pending").fetchone()[0])

    def _fold(self) -> None:
        known = identity.load(self.db)
        if known is not None and (self._pending() or self._is_dirty()):
            vectors.fold(self.db, self.folder, known.width)
