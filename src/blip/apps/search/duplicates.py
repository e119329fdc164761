"""Groups of near-identical photos: those that a chain of cosines above a threshold joins."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import numpy as np

from blip.apps.search.find import places_of
from blip.apps.search.schema import STILL
from blip.apps.search.vectors import EXACT, Vectors
from blip.apps.search.walk import below, shown
from blip_lite.results import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROWS = 1024  # compared with all others at once
NEIGHBOURS = 32  # of each photo, where there are too many to compare all


def groups(db: sqlite3.Connection, state: Vectors, threshold: float, under: bytes | None) -> list[list[Hit]]:
    """Groups of at least two stills, the largest first. `rank` is the group, `score` the cosine with its first."""
    low, high = (b"", b"\xff") if under is None else below(under)
    rows = db.execute(
        "SELECT DISTINCT p.id FROM pictures p JOIN files f ON f.hash = p.hash"
        " WHERE p.at = ? AND f.path >= ? AND f.path < ? ORDER BY p.id",
        (STILL, low, high),
    )
    ids, vectors = state.of(np.array([row[0] for row in rows], np.int64))
    parents = np.arange(len(ids))
    pairs = _all_pairs(vectors, threshold) if len(ids) <= EXACT else _near_pairs(state, ids, vectors, threshold)
    for a, b in pairs:
        parents[_top(parents, a)] = _top(parents, b)
    members: dict[int, list[int]] = {}
    for i in range(len(ids)):
        members.setdefault(_top(parents, i), []).append(i)
    places = places_of(db, ids.tolist(), under)
    found = []
    for group in members.values():
        rows_ = sorted((path, i) for i in group for path, _ in places.get(int(ids[i]), ([], None))[0])
        if len(rows_) > 1:
            found.append(rows_)
    found.sort(key=lambda some: (-len(some), some[0][0]))
    return [
        [
            Hit(number, shown(path), cosine, itc=cosine)
            for path, i in some
            for cosine in [min(1.0, float(vectors[i] @ vectors[some[0][1]]))]
        ]
        for number, some in enumerate(found, 1)
    ]


def _all_pairs(vectors: NDArray[np.float32], threshold: float) -> Iterator[tuple[int, int]]:
    for start in range(0, len(vectors), ROWS):
        a, b = np.nonzero(vectors[start : start + ROWS] @ vectors[start:].T >= threshold)
        yield from ((start + i, start + j) for i, j in zip(a.tolist(), b.tolist(), strict=True) if i < j)


def _near_pairs(
    state: Vectors, ids: NDArray[np.int64], vectors: NDArray[np.float32], threshold: float
) -> Iterator[tuple[int, int]]:
    numbers = {int(one): i for i, one in enumerate(ids)}
    for i, vector in enumerate(vectors):
        near = state.nearest(vector, NEIGHBOURS, len(state))
        places = [j for one in near.tolist() if (j := numbers.get(one)) is not None and j != i]
        if places:
            yield from ((i, j) for j, s in zip(places, vectors[places] @ vector, strict=True) if s >= threshold)


def _top(parents: NDArray[np.int64], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = int(parents[i])
    return i
