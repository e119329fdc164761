"""Vectors of an index: a usearch file of float16 values, and those not yet in it. Exact up to 100,000, HNSW beyond.

The database records which file is current (`generation` and its CRC-32) and stores new vectors until they are folded
into the next file. A process may therefore be killed at any time, and readers never block a writer.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blip.apps.search.database import Damaged, Database
from blip.io.atomic import atomic_path
from blip.io.disk import writing
from blip_lite.errors import EnvironmentProblem, MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_EXACT = 100_000  # vectors; comparing with all of them takes some 10 ms
MAX_CHECKED_BYTES = 256 << 20  # larger files are memory-mapped without reading them completely
OVERSAMPLING = 4  # HNSW is queried for this multiple, so that enough results remain without the deleted ones


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

    def nearest(self, query: NDArray[np.float32], count: int, pictures: int) -> NDArray[np.int64]:
        """Return the ids of at least `count` vectors with the largest inner product with `query`, if there are as many.

        pictures: number in the database; vectors in the file beyond that are deleted and take places in the result.
        """
        ids = [self.new_ids[np.argsort(-(self.new.astype(np.float32) @ query))[:count]]]
        if self.file is not None and len(self.file):
            exact = len(self.file) <= MAX_EXACT
            limit = count + max(0, len(self) - pictures) if exact else count * OVERSAMPLING
            matches = self.file.search(query.astype(np.float32), min(limit, len(self.file)), exact=exact, threads=1)
            ids.append(matches.keys.astype(np.int64))
        return np.concatenate(ids)

    def get(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return those of the ids that have a vector, and the vectors [N, E]."""
        stored = () if self.file is None else self.file.get(ids.astype(np.uint64))
        vectors = {int(id): vector for id, vector in zip(ids, stored, strict=False) if vector is not None}
        vectors |= {int(id): vector for id, vector in zip(self.new_ids, self.new, strict=True)}
        known = np.array([id for id in ids.tolist() if id in vectors], np.int64)
        if not len(known):
            return known, np.empty((0, self.new.shape[1]), np.float32)
        return known, np.stack([vectors[id] for id in known.tolist()]).astype(np.float32)


def read(db: Database, width: int, previous: Vectors | None = None) -> Vectors:
    """Return the vectors of the database's current state, reusing the file of `previous` if it is the same."""
    generation, crc = db.get_meta("generation") or 0, db.get_meta("crc")
    rows = db.execute("SELECT id, vector FROM pending ORDER BY id").fetchall()
    if any(len(vector) != 2 * width for _, vector in rows):
        raise Damaged(db.folder, f"a vector does not have {width} values", folders="")
    if previous is not None and (previous.generation, previous.crc) == (generation, crc):
        file = previous.file
    else:
        file = None if crc is None else _load(db, generation, crc, width, view=True)
    ids = np.array([id for id, _ in rows], np.int64)
    new = np.frombuffer(b"".join(vector for _, vector in rows), np.float16).reshape(len(rows), width)
    return Vectors(generation, crc, file, ids, new)


def add(db: Database, ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
    """Store new vectors [N, E] in the database."""
    rows = [(id, vector.astype(np.float16).tobytes()) for id, vector in zip(ids, vectors, strict=True)]
    db.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?)", rows)


def fold(db: Database, width: int) -> None:
    """Write the next vector file: with the new vectors, without the deleted ones. For the only writer."""
    try:
        state = read(db, width)
        index = _empty(width) if state.crc is None else _load(db, state.generation, state.crc, width, view=False)
    except FileNotFoundError as error:
        raise missing_file(db.folder, error) from error
    pictures = np.fromiter((row[0] for row in db.execute("SELECT id FROM pictures")), np.int64)
    stored = np.fromiter(index.keys, np.int64, len(index))
    deleted = np.setdiff1d(stored, pictures)
    new = np.isin(state.new_ids, pictures) & ~np.isin(state.new_ids, stored)
    if len(deleted):
        index.remove(deleted.astype(np.uint64))
    if new.any():
        index.add(state.new_ids[new].astype(np.uint64), state.new[new], threads=1)
    generation = state.generation + 1
    path = path_of(db.folder, generation)
    with atomic_path(path, durable=True) as temporary:
        with writing(path):
            index.save(str(temporary))
        crc, size = _crc(temporary), temporary.stat().st_size
        if len(_restore(temporary)) != len(index):  # usearch does not report every failed write
            raise EnvironmentProblem(f"{path}: cannot be written completely; is the disk full?")
    with db.transaction():
        db.set_meta(generation=generation, crc=crc, size=size)
        db.execute("DELETE FROM pending")
        db.execute("DELETE FROM meta WHERE name = 'dirty'")
    db.executescript("PRAGMA incremental_vacuum")  # `execute` would free only one page
    remove_others(db.folder, generation)


def remove_others(folder: Path, generation: int) -> None:
    """Delete the vector files of other generations."""
    for old in folder.glob("vectors-*.usearch"):
        if old != path_of(folder, generation):
            with suppress(OSError):  # some systems keep a file that a reader has open; the next fold deletes it
                old.unlink()


def generations(folder: Path) -> list[int]:
    """Return the generations of the vector files in a folder."""
    numbers = (path.stem.removeprefix("vectors-") for path in folder.glob("vectors-*.usearch"))
    return [int(number) for number in numbers if number.isdecimal()]


def check(db: Database, state: Vectors) -> None:
    """Raise Damaged if a picture has no vector."""
    pictures = np.fromiter((row[0] for row in db.execute("SELECT id FROM pictures")), np.int64)
    stored = np.fromiter(state.file.keys, np.int64, len(state.file)) if state.file is not None else state.new_ids
    lost = len(np.setdiff1d(pictures, np.union1d(stored, state.new_ids)))
    if lost:
        raise Damaged(db.folder, f"{lost:,} of {len(pictures):,} photos have no vector", folders="")


def missing_file(folder: Path, error: FileNotFoundError) -> Damaged:
    return Damaged(folder, f"{Path(error.filename).name} is missing", folders="")


def _load(db: Database, generation: int, crc: int, width: int, *, view: bool) -> Any:
    """Open a vector file. Raises FileNotFoundError, EnvironmentProblem, Damaged."""
    path, size = path_of(db.folder, generation), db.get_meta("size")
    try:
        actual = path.stat().st_size
        if size is not None and actual != size:
            raise Damaged(db.folder, f"{path.name} has {actual:,} bytes, not {size:,}", folders="")
        if actual <= MAX_CHECKED_BYTES and _crc(path) != crc:
            raise Damaged(db.folder, f"wrong checksum of {path.name}", folders="")
        index = _restore(path, view=view)
    except (FileNotFoundError, Damaged):
        raise
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RuntimeError) as error:
        raise Damaged(db.folder, f"{path.name}: {error}", folders="") from error
    if index is None or index.ndim != width:
        raise Damaged(db.folder, f"{path.name}: vectors do not have {width} values", folders="")
    return index


def _restore(path: Path, *, view: bool = True) -> Any:
    return _usearch().Index.restore(str(path), view=view)


def _empty(width: int) -> Any:
    usearch = _usearch()
    return usearch.Index(ndim=width, metric=usearch.MetricKind.IP, dtype=usearch.ScalarKind.F16)


def _usearch() -> Any:
    try:
        from usearch import index
    except ImportError as error:
        raise MissingExtra('photo search needs an extra: pip install "blip-vlm[search]"') from error
    return index


def path_of(folder: Path, generation: int) -> Path:
    return folder / f"vectors-{generation}.usearch"


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc
