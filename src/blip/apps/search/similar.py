"""Groups of similar photos: connected by cosines above a threshold. Different photos may be similar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blip.apps.search.database import STILL, Database
from blip.apps.search.query import find_locations
from blip.apps.search.scan import display_path, prefix_range
from blip.apps.search.vectors import MAX_EXACT, Vectors
from blip_lite.results import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK = 1024  # photos compared with all others at once
NEIGHBOURS = 32  # candidates per photo if there are too many photos to compare all pairs


def groups(db: Database, state: Vectors, threshold: float, under: bytes | None) -> list[list[Hit]]:
    """Groups of at least two stills, the largest first. `rank` is the group, `score` the cosine with its first."""
    rows = db.execute(
        "SELECT DISTINCT p.id FROM pictures p JOIN files f ON f.hash = p.hash"
        " WHERE p.at = ? AND f.path >= ? AND f.path < ? ORDER BY p.id",
        (STILL, *prefix_range(under)),
    )
    ids, vectors = state.get(np.array([row[0] for row in rows], np.int64))
    parents = np.arange(len(ids))
    exact = len(ids) <= MAX_EXACT
    for i, j in _all_pairs(vectors, threshold) if exact else _neighbour_pairs(state, ids, vectors, threshold):
        parents[_find_root(parents, i)] = _find_root(parents, j)
    members: dict[int, list[int]] = {}
    for i in range(len(ids)):
        members.setdefault(_find_root(parents, i), []).append(i)
    locations = find_locations(db, ids.tolist(), under)
    result = []
    for pictures in members.values():
        files = sorted((path, i) for i in pictures for path, _ in locations.get(int(ids[i]), ([], None))[0])
        if len(files) > 1:
            result.append(files)
    result.sort(key=lambda files: (-len(files), files[0][0]))
    return [_to_hits(number, files, vectors) for number, files in enumerate(result, 1)]


def _to_hits(number: int, files: list[tuple[bytes, int]], vectors: NDArray[np.float32]) -> list[Hit]:
    first = files[0][1]
    cosines = [min(1.0, float(vectors[i] @ vectors[first])) for _, i in files]
    return [
        Hit(number, display_path(path), cosine, itc=cosine) for (path, _), cosine in zip(files, cosines, strict=True)
    ]


def _all_pairs(vectors: NDArray[np.float32], threshold: float) -> Iterator[tuple[int, int]]:
    for start in range(0, len(vectors), BLOCK):
        a, b = np.nonzero(vectors[start : start + BLOCK] @ vectors[start:].T >= threshold)
        yield from ((start + i, start + j) for i, j in zip(a.tolist(), b.tolist(), strict=True) if i < j)


def _neighbour_pairs(
    state: Vectors, ids: NDArray[np.int64], vectors: NDArray[np.float32], threshold: float
) -> Iterator[tuple[int, int]]:
    indices = {int(id): i for i, id in enumerate(ids)}
    for i, vector in enumerate(vectors):
        nearest = state.nearest(vector, NEIGHBOURS, len(state))
        others = [j for id in nearest.tolist() if (j := indices.get(id)) is not None and j != i]
        if others:
            yield from ((i, j) for j, s in zip(others, vectors[others] @ vector, strict=True) if s >= threshold)


def _find_root(parents: NDArray[np.int64], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = int(parents[i])
    return i
