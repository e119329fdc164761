"""From a query to hits: nearest by cosine, then the best of them again by match logit + cosine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from blip.apps.search.query import Part
from blip.apps.search.reading import picture_of, small
from blip.apps.search.vectors import Vectors
from blip.apps.search.walk import below, shown
from blip.io.inputs import Input
from blip_lite.errors import BlipError, UsageError
from blip_lite.results import Hit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blip.api import Model

AT_ONCE = 8  # photos looked at a second time; their states are let go before the next ones
NAMES_A_QUERY = 500  # SQLite's old limit of variables is 999


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that may be a hit, and all its places. `score` is what it is ordered by."""

    places: Sequence[tuple[bytes, int]]  # path, milliseconds
    caption: str | None
    score: float
    itc: float
    itm: float | None = None


def vector_of(model: Model, parts: Sequence[Part]) -> NDArray[np.float32]:
    """The sum of the parts' vectors, each by its weight. Raises UsageError, UnreadableImage."""
    texts = [part.text for part in parts if part.text is not None]
    if not parts or not all(text.strip() for text in texts):
        raise UsageError("query is empty; must be a text or a photo")
    of_texts = iter(model.embed_text(texts).vectors) if texts else iter(())
    vector: NDArray[np.float32] = np.zeros(model.config.proj_width, np.float32)
    for part in parts:
        if part.text is not None:
            vector = vector + part.weight * next(of_texts)
        else:
            image = part.value.read() if isinstance(part.value, Input) else part.value
            vector = vector + part.weight * model.embed_image([image]).vectors[0]
    if float(np.linalg.norm(vector)) < 1e-4:
        raise UsageError("query is nothing: its parts cancel each other; change a weight")
    return vector.astype(np.float32)


def nearest(
    db: sqlite3.Connection, state: Vectors, vector: NDArray[np.float32], count: int, under: bytes | None
) -> list[Candidate]:
    """The `count` pictures nearest to a query, best first; `under` only those in a folder."""
    if under is None:
        live = int(db.execute("SELECT count(*) FROM pictures").fetchone()[0])
        ids = state.nearest(vector, count, live)
    else:
        query = "SELECT DISTINCT p.id FROM pictures p JOIN files f ON f.hash = p.hash WHERE f.path >= ? AND f.path < ?"
        ids = np.array([row[0] for row in db.execute(query, below(under))], np.int64)
    ids, rows = state.of(np.unique(ids))
    scores = rows @ vector
    order = np.argsort(-scores, kind="stable")[: max(count * 2, 100)]
    length = float(np.linalg.norm(vector))
    places = places_of(db, ids[order].tolist(), under)
    found = []
    for i in order.tolist():
        at, caption = places.get(int(ids[i]), ([], None))
        if at:
            found.append(Candidate(at, caption, float(scores[i]), min(1.0, float(scores[i]) / length)))
    return found[:count]


def places_of(
    db: sqlite3.Connection, ids: Sequence[int], under: bytes | None = None
) -> dict[int, tuple[list[tuple[bytes, int]], str | None]]:
    """Where each picture lies, in the order of paths, and its caption."""
    low, high = (b"", b"\xff") if under is None else below(under)
    found: dict[int, tuple[list[tuple[bytes, int]], str | None]] = {}
    for start in range(0, len(ids), NAMES_A_QUERY):
        some = ids[start : start + NAMES_A_QUERY]
        rows = db.execute(
            "SELECT p.id, p.at, p.caption, f.path FROM pictures p JOIN files f ON f.hash = p.hash AND f.error IS NULL"
            f" WHERE p.id IN ({', '.join('?' * len(some))}) AND f.path >= ? AND f.path < ? ORDER BY f.path",
            (*some, low, high),
        )
        for number, at, caption, path in rows:
            found.setdefault(number, ([], caption))[0].append((path, at))
    return found


def rerank(
    model: Model, parts: Sequence[Part], found: Sequence[Candidate], count: int, workers: int
) -> list[Candidate]:
    """The first `count` ordered anew: each text's match logit is added to its cosine, by its weight (blip-spec 5.3).

    Pictures are read again, a few at a time; one that cannot be read comes behind those that can, by its cosine.
    """
    texts = [(part.text, part.weight) for part in parts if part.text is not None]
    if not texts or not found or not count:
        return list(found)
    judged = next((i for i, (_, weight) in enumerate(texts) if weight > 0), 0)
    weights = np.array([weight for _, weight in texts])
    second, left = [], list(found[count:])
    for some, pixels in _read(model, found[:count], workers):
        left = [one for one, picture in zip(some, pixels, strict=True) if picture is None] + left
        good = [(one, picture) for one, picture in zip(some, pixels, strict=True) if picture is not None]
        if not good:
            continue
        logits = model.match_logits([picture for _, picture in good], [text for text, _ in texts])
        chances = 1 / (1 + np.exp(np.clip(logits[..., 0] - logits[..., 1], -80, 80)))
        scores = logits[..., 1] @ weights
        second += [
            replace(one, score=one.score + float(score), itm=float(chance[judged]))
            for (one, _), score, chance in zip(good, scores, chances, strict=True)
        ]
    second.sort(key=lambda one: -one.score)
    return [*second, *sorted(left, key=lambda one: -one.itc)]


def _read(
    model: Model, found: Sequence[Candidate], workers: int
) -> Iterator[tuple[Sequence[Candidate], list[NDArray[np.uint8] | None]]]:
    size = model.config.vision.image_size

    def read(one: Candidate) -> NDArray[np.uint8] | None:
        for path, at in one.places:
            try:
                return small(picture_of(path, at), size)
            except BlipError:
                continue
        return None

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(found), AT_ONCE):
            some = found[start : start + AT_ONCE]
            yield some, list(pool.map(read, some))


def hits(found: Sequence[Candidate], top: int, min_score: float | None) -> list[Hit]:
    """The first `top` places of candidates; copies of a picture are hits of their own."""
    rows = [(one, place) for one in found if min_score is None or one.score >= min_score for place in one.places]
    return [
        Hit(rank, shown(*place), one.score, itc=one.itc, itm=one.itm, caption=one.caption)
        for rank, (one, place) in enumerate(rows[:top], 1)
    ]
