"""Queries of texts and photos with weights (`dog - people + 2:./beach.jpg`, as in rclip), and their hits.

Hits are the nearest pictures by cosine; the best of them are re-ranked by match logit + cosine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from blip.apps.search.database import Database
from blip.apps.search.reading import read_picture
from blip.apps.search.scan import display_path, prefix_range
from blip.apps.search.vectors import Vectors
from blip.io.byte_sources import Url
from blip.io.ordered_map import batched, ordered_map
from blip.io.paths import is_url
from blip.io.samples import ImageRef, Sample
from blip_lite.arrays import match_probability
from blip_lite.errors import BlipError, UsageError
from blip_lite.image import square
from blip_lite.results import Hit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from blip_lite.model import Model

MAX_WEIGHT = 1e6  # a larger one is a typing error, and soon overflows float32
RERANK_BATCH = 8  # photos
MAX_VARIABLES = 500  # of an SQL statement; the limit of old SQLite versions is 999
_WEIGHTED = re.compile(r"(\d+(?:\.\d*)?|\.\d+):(.+)", re.DOTALL)
_PHOTO_PREFIXES = ("./", "../", "/", "~/", "file://")


@dataclass(frozen=True)
class Part:
    """One term of a query: a text (`str`), or a photo (a `Sample`, or any image that a model accepts)."""

    value: Any
    weight: float = 1.0

    @property
    def text(self) -> str | None:
        return self.value if isinstance(self.value, str) else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that may become a hit. `locations` are (path, milliseconds); `score` determines the order."""

    locations: Sequence[tuple[bytes, int]]
    caption: str | None
    score: float
    itc: float
    itm: float | None = None


def parse(words: Sequence[str], *, offline: bool = False, url_timeout: float = 20.0) -> list[Part]:
    """Parse a query as typed. A lone `+` or `-` is the sign of the next term; consecutive words form one text.

    `2:` before a term is its weight; `./a.jpg`, other paths with a folder and URLs are photos. Raises UsageError.
    """
    terms: list[tuple[float, list[str]]] = []
    sign: float | None = None
    for word in words:
        if word in ("+", "-"):
            if sign is not None:
                raise UsageError(f"'{word}' follows another sign; a text or a photo must follow")
            sign = -1.0 if word == "-" else 1.0
            continue
        weight, value = _split_weight(word)
        continues = sign is None and weight is None and terms
        if continues and not _is_photo(value) and not _is_photo(terms[-1][1][0]):
            terms[-1][1].append(value)
        else:
            terms.append(((1.0 if sign is None else sign) * (1.0 if weight is None else weight), [value]))
        sign = None
    if not terms or sign is not None:
        problem = "is empty" if sign is None else "ends with a sign"
        raise UsageError(f"query {problem}; give a text, ./photo.jpg or a URL")
    return [Part(_value(" ".join(value), offline, url_timeout), weight) for weight, value in terms]


def _is_photo(text: str) -> bool:
    return text.startswith(_PHOTO_PREFIXES) or is_url(text)


def _split_weight(word: str) -> tuple[float | None, str]:
    match = _WEIGHTED.fullmatch(word)
    if match is None:
        return None, word
    if float(match[1]) > MAX_WEIGHT:
        raise UsageError(f"weight {match[1][:20]} of '{match[2][:40]}'; must be at most {MAX_WEIGHT:,.0f}")
    return float(match[1]), match[2].strip()


def _value(text: str, offline: bool, timeout: float) -> str | Sample:
    if is_url(text):
        return Sample(key=text, images=(ImageRef(Url(text, timeout=timeout, offline=offline)),))
    if text.startswith("file://"):
        return Sample(key=text, images=(ImageRef(Path(unquote(text.removeprefix("file://")))),))
    if _is_photo(text):
        return Sample(key=text, images=(ImageRef(Path(os.path.expanduser(text))),))
    if not text.strip():
        raise UsageError("query is empty; give a text, ./photo.jpg or a URL")
    return text


def query_vector(model: Model, parts: Sequence[Part]) -> NDArray[np.float32]:
    """Weighted sum [E] of the vectors of the terms. Raises UsageError, UnreadableImage."""
    texts = [part.text for part in parts if part.text is not None]
    if not parts or not all(text.strip() for text in texts):
        raise UsageError("query is empty; must be a text or a photo")
    text_vectors = iter(model.embed_text(texts).vectors) if texts else iter(())
    result: NDArray[np.float32] = np.zeros(model.config.proj_width, np.float32)
    for part in parts:
        if part.text is not None:
            vector = next(text_vectors)
        else:
            image = part.value.read() if isinstance(part.value, Sample) else part.value
            vector = model.embed_image([image]).vectors[0]
        result = result + part.weight * vector
    if float(np.linalg.norm(result)) < 1e-4:
        raise UsageError("query terms cancel out; change a weight")
    return result.astype(np.float32)


def nearest(
    db: Database, state: Vectors, vector: NDArray[np.float32], count: int, under: bytes | None
) -> list[Candidate]:
    """Return the `count` pictures nearest to a query, best first; with `under` only those in that folder."""
    if under is None:
        ids = state.nearest(vector, count, db.count("pictures"))
    else:
        query = "SELECT DISTINCT p.id FROM pictures p JOIN files f ON f.hash = p.hash WHERE f.path >= ? AND f.path < ?"
        ids = np.array([row[0] for row in db.execute(query, prefix_range(under))], np.int64)
    ids, vectors = state.get(np.unique(ids))
    scores = vectors @ vector
    order = np.argsort(-scores, kind="stable")[: max(count * 2, 100)]
    length = float(np.linalg.norm(vector))
    locations = find_locations(db, ids[order].tolist(), under)
    candidates = []
    for i in order.tolist():
        if int(ids[i]) in locations:
            files, caption = locations[int(ids[i])]
            candidates.append(Candidate(files, caption, float(scores[i]), min(1.0, float(scores[i]) / length)))
    return candidates[:count]


def find_locations(
    db: Database, ids: Sequence[int], under: bytes | None = None
) -> dict[int, tuple[list[tuple[bytes, int]], str | None]]:
    """Return the (path, milliseconds) of each picture in the order of paths, and its caption."""
    result: dict[int, tuple[list[tuple[bytes, int]], str | None]] = {}
    for start in range(0, len(ids), MAX_VARIABLES):
        chunk = ids[start : start + MAX_VARIABLES]
        rows = db.execute(
            "SELECT p.id, p.at, p.caption, f.path FROM pictures p JOIN files f ON f.hash = p.hash AND f.error IS NULL"
            f" WHERE p.id IN ({', '.join('?' * len(chunk))}) AND f.path >= ? AND f.path < ? ORDER BY f.path",
            (*chunk, *prefix_range(under)),
        )
        for id, at, caption, path in rows:
            result.setdefault(id, ([], caption))[0].append((path, at))
    return result


def rerank_candidates(
    model: Model, parts: Sequence[Part], candidates: Sequence[Candidate], count: int, workers: int
) -> list[Candidate]:
    """Re-rank the first `count`: add each text's match logit, times its weight, to its cosine (blip-spec 5.3).

    Pictures are read again in small batches; unreadable ones follow the readable ones, ordered by cosine.
    """
    texts = [(part.text, part.weight) for part in parts if part.text is not None]
    if not texts or not candidates or not count:
        return list(candidates)
    reported = next((i for i, (_, weight) in enumerate(texts) if weight > 0), 0)
    weights = np.array([weight for _, weight in texts])
    ranked: list[Candidate] = []
    unranked = list(candidates[count:])
    size = model.config.vision.image_size

    def read(candidate: Candidate) -> Image | None:
        for path, at in candidate.locations:
            try:
                return square(read_picture(path, at), size)
            except BlipError:
                continue
        return None

    images = ordered_map(read, candidates[:count], ahead=RERANK_BATCH, workers=workers)
    for batch in batched(zip(candidates[:count], images, strict=True), RERANK_BATCH):
        unranked += [candidate for candidate, image in batch if image is None]
        readable = [(candidate, image) for candidate, image in batch if image is not None]
        if not readable:
            continue
        logits = model.match_logits([image for _, image in readable], [text for text, _ in texts])
        probabilities = match_probability(logits)
        scores = logits[..., 1] @ weights
        ranked += [
            replace(candidate, score=candidate.score + float(score), itm=float(probability[reported]))
            for (candidate, _), score, probability in zip(readable, scores, probabilities, strict=True)
        ]
    ranked.sort(key=lambda candidate: -candidate.score)
    return [*ranked, *sorted(unranked, key=lambda candidate: -candidate.itc)]


def to_hits(candidates: Sequence[Candidate], top: int, min_score: float | None) -> list[Hit]:
    """Return the first `top` locations of the candidates; each copy of a picture is a hit of its own."""
    rows = [(c, location) for c in candidates if min_score is None or c.score >= min_score for location in c.locations]
    return [
        Hit(rank, display_path(*location), c.score, itc=c.itc, itm=c.itm, caption=c.caption)
        for rank, (c, location) in enumerate(rows[:top], 1)
    ]
