"""Vectors of an index: a usearch file of float16, and what is not yet in it. Exact search up to 100,000, HNSW beyond.

The database says which file holds (`generation`, its CRC-32) and keeps new vectors itself until they are folded into
the next file. So a process may be killed at any time, and readers are never in a writer's way.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blip.apps.search.database import Damaged, transaction
from blip.io.atomic import atomic_path
from blip_lite.errors import MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = 100_000  # vectors; comparing with all of them takes some 10 ms
CHECKED_BYTES = 256 << 20  # larger files are mapped without reading them whole
MORE = 4  # HNSW is asked for so many times more, so that what was deleted leaves enough


@dataclass(frozen=True)
class Vectors:
    """One state of an index. `file` is None before the first fold; `new` are vectors that it lacks."""

    generation: int
    crc: int | None
    file: Any
    new_ids: NDArray[np.int64]
    new: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.new_ids) + (0 if self.file is None else len(self.file))

    def nearest(self, query: NDArray[np.float32], count: int, live: int) -> NDArray[np.int64]:
        """Ids of at least `count` vectors of the largest inner product with `query`, if there are so many.

        live: the pictures there are; what the file holds beyond them is deleted and takes places of the result.
        """
        found = [self.new_ids[np.argsort(-(self.new.astype(np.float32) @ query))[:count]]]
        if self.file is not None and len(self.file):
            exact = len(self.file) <= EXACT
            wanted = (
                min(count + max(0, len(self) - live), len(self.file)) if exact else min(count * MORE, len(self.file))
            )
            keys = self.file.search(query.astype(np.float32), wanted, exact=exact, threads=1).keys
            found.append(keys.astype(np.int64))
        return np.concatenate(found)

    def of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Those of the ids that have a vector, and the vectors [N, E]."""
        places = {int(one): row for one, row in zip(self.new_ids, self.new, strict=True)}
        held = () if self.file is None else self.file.get(ids.astype(np.uint64))
        rows = {int(one): row for one, row in zip(ids, held, strict=False) if row is not None} | places
        known = np.array([one for one in ids.tolist() if one in rows], np.int64)
        if not len(known):
            return known, np.empty((0, self.new.shape[1]), np.float32)
        return known, np.stack([rows[one] for one in known.tolist()]).astype(np.float32)


def read(db: sqlite3.Connection, folder: Path, width: int, before: Vectors | None = None) -> Vectors:
    """The vectors of the database's present state; `before` lends its file if that is the same."""
    generation, crc = _fact(db, "generation") or 0, _fact(db, "crc")
    rows = db.execute("SELECT id, vector FROM pending ORDER BY id").fetchall()
    if any(len(vector) != 2 * width for _, vector in rows):
        raise Damaged(folder, f"a vector that is not {width} wide")
    if before is not None and (before.generation, before.crc) == (generation, crc):
        file = before.file
    else:
        file = None if crc is None else _load(folder, generation, crc, width, view=True)
    ids = np.array([one for one, _ in rows], np.int64)
    new = np.frombuffer(b"".join(vector for _, vector in rows), np.float16).reshape(len(rows), width)
    return Vectors(generation, crc, file, ids, new)


def add(db: sqlite3.Connection, ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
    """Keeps new vectors [N, E] with the database."""
    rows = [(one, row.astype(np.float16).tobytes()) for one, row in zip(ids, vectors, strict=True)]
    db.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?)", rows)


def fold(db: sqlite3.Connection, folder: Path, width: int) -> None:
    """Writes the next vector file: with what is new, without what is deleted. Only the one writer may."""
    state = read(db, folder, width)
    generation, crc = state.generation, state.crc
    index = _empty(width) if crc is None else _load(folder, generation, crc, width, view=False)
    live = np.fromiter((row[0] for row in db.execute("SELECT id FROM pictures")), np.int64)
    held = np.fromiter(index.keys, np.int64, len(index))
    gone = np.setdiff1d(held, live)
    new = np.isin(state.new_ids, live) & ~np.isin(state.new_ids, held)
    if len(gone):
        index.remove(gone.astype(np.uint64))
    if new.any():
        index.add(state.new_ids[new].astype(np.uint64), state.new[new], threads=1)
    path = _path(folder, generation + 1)
    with atomic_path(path, durable=True) as temporary:
        index.save(str(temporary))
        crc = _crc(temporary)
    with transaction(db, folder):
        db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", [("generation", generation + 1), ("crc", crc)])
        db.execute("DELETE FROM pending")
        db.execute("DELETE FROM facts WHERE name = 'dirty'")
    db.executescript("PRAGMA incremental_vacuum")  # `execute` would take one step of it, which is one page
    for old in folder.glob("vectors-*.usearch"):
        if old != path:
            with suppress(OSError):  # another system may keep a file that a reader has open; the next fold gets it
                old.unlink()


def _load(folder: Path, generation: int, crc: Any, width: int, *, view: bool) -> Any:
    path = _path(folder, generation)
    index = _library()
    try:
        if path.stat().st_size <= CHECKED_BYTES and _crc(path) != crc:
            raise Damaged(folder, f"{path.name} is not as it was written")
        found = index.Index.restore(str(path), view=view)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise Damaged(folder, f"{path.name}: {error}") from error
    if found is None or found.ndim != width:
        raise Damaged(folder, f"{path.name}: vectors are not {width} wide")
    return found


def _empty(width: int) -> Any:
    index = _library()
    return index.Index(ndim=width, metric=index.MetricKind.IP, dtype=index.ScalarKind.F16)


def _library() -> Any:
    try:
        from usearch import index
    except ImportError as error:
        raise MissingExtra('photo search needs an extra: pip install "blip-vlm[search]"') from error
    return index


def _path(folder: Path, generation: int) -> Path:
    return folder / f"vectors-{generation}.usearch"


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _fact(db: sqlite3.Connection, name: str) -> Any:
    row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]
