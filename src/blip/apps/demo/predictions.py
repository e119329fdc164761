"""What each tab computes: photos and texts in, rows and pictures out. Nothing here knows the page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal

from PIL import Image

from blip.api import Model
from blip.apps.demo.tables import Cell, table
from blip.apps.demo.uploads import Photo, as_html
from blip_lite.errors import UsageError
from blip_lite.results import Caption, Explanation

MAP_SIZE = 480  # pixels
Shown = list[tuple[Image.Image, str]]  # pictures with the words under them


def captions(
    model: Model, photo: Photo, way: Literal["beam", "nucleus"], count: int, top_p: float, seed: int
) -> list[Caption]:
    """So many captions, best first; beams of the same text are one."""
    best: Caption = model.caption(
        photo.image, sample=way == "nucleus", num_captions=count, beams=max(3, count), top_p=top_p, seed=seed
    )
    found = {one.text: one for one in (best, *best.alternatives)}
    return list(found.values())


def maps(found: Explanation) -> Shown:
    """A heat-map for each word, and first, of several, their mean."""
    words = found.words()
    whole = [(found.overlay(size=MAP_SIZE), "all words")] if len(words.tokens) > 1 else []
    return whole + [(words.overlay(i, MAP_SIZE), word) for i, word in enumerate(words.tokens)]


def answers(model: Model, photo: Photo, question: str, choices: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Answers with their scores, best first: free ones, or out of the choices."""
    if choices:
        found = model.answer(photo.image, question, answers=choices, top=min(top, len(choices)))
    else:
        found = model.answer(photo.image, question, top=top)
    return [(one.text, one.score) for one in (found, *found.alternatives)]


def matches(model: Model, photos: Sequence[Photo], texts: Sequence[str]) -> str:
    """A table of texts by photos: the chance of a match, and the cosine under it."""
    scores = model.match([one.image for one in photos], texts)
    assert scores.itm is not None and scores.itc is not None, "both were asked for"
    rows = [
        (
            html.escape(text),
            [
                Cell(float(itm), f"{itm:.0%}", f"cosine {itc:.2f}")
                for itm, itc in zip(scores.itm[:, i], scores.itc[:, i], strict=True)
            ],
        )
        for i, text in enumerate(texts)
    ]
    return table("chance of a match", [as_html(one) for one in photos], rows)


def similarities(model: Model, photos: Sequence[Photo]) -> str:
    """A table of photos by photos: the cosine of their vectors."""
    if len(photos) < 2:
        raise UsageError("one photo; similarity needs at least two")
    vectors = model.embed_image([one.image for one in photos])
    cosines = vectors.similarity(vectors)
    names, least = [as_html(one) for one in photos], float(min(cosines.min(), 0.99))
    rows = [
        (name, [Cell(float(cosine - least) / (1 - least), f"{cosine:.2f}") for cosine in row])
        for name, row in zip(names, cosines, strict=True)
    ]
    return table("cosine", names, rows)
