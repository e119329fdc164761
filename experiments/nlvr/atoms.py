"""Phrases that fit after "the image shows", with the photos that they are true and false of by their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from experiments.vqa.closed_questions import COUNTED, does, is_color
from experiments.vqa.closed_things import compare
from experiments.vqa.parse import COLORS, SAME_COLOR, gerund
from experiments.vqa.photo import Photo
from experiments.vqa.things import ASKED, has

MIN_PHOTOS = 12  # that an atom must be true of, and false of
THINGS = (
    "dog",
    "horse",
    "bird",
    "bike",
    "motorcycle",
    "skateboard",
    "surfboard",
    "ball",
    "frisbee",
    "bench",
    "boat",
    "swing",
    "snow",
    "water",
    "grass",
    "beach",
    "mountain",
    "building",
    "wave",
    "ramp",
    "guitar",
    "car",
    "table",
)
MASS = ("snow", "water", "grass")
NUMBERS = {0: "no", 1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
SINGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child"}


@dataclass(frozen=True)
class Atom:
    """A phrase that fits after "shows", of a class, with the photos that it is true and false of."""

    phrase: str
    group: str
    true: list[Photo]
    false: list[Photo]


def atoms(photos: Sequence[Photo]) -> list[Atom]:
    """Things, people, acts, colours and numbers that enough photos have, and enough have not."""
    results = []
    for phrase, group, judge in phrases():
        verdicts = [(photo, judge(photo)) for photo in photos]
        true, false = ([p for p, verdict in verdicts if verdict is expected] for expected in (True, False))
        if min(len(true), len(false)) >= MIN_PHOTOS:
            results.append(Atom(phrase, group, true, false))
    return results


def phrases() -> Iterator[tuple[str, str, Callable[[Photo], bool | None]]]:
    """Phrase, group, judge."""
    for thing in THINGS:
        name = thing if thing in MASS else f"a {thing}"
        yield name, "thing", lambda p, t=thing: has(p, t, {**ASKED["things"][t]})
    for who, entry in ASKED["people"].items():
        yield f"a {who}", "person", lambda p, w=who, e=entry: has(p, w, e, at_least=2)
    for who in ("man", "woman", "boy", "girl", "dog"):
        for act, entry in ASKED["acts"].items():
            yield f"a {who} {gerund(act)}", f"{who} act", lambda p, w=who, a=act, e=entry: does(p, w, a, e)
        for color in sorted(COLORS - SAME_COLOR.keys()):
            phrase = f"{'an' if color == 'orange' else 'a'} {color}"
            if who == "dog":
                yield f"{phrase} dog", "dog color", lambda p, c=color: is_color(p.colors_of("dog"), c)
            else:
                for garment in ("shirt", "jacket", "dress", "hat", "helmet"):
                    worn = "with" if garment in ("hat", "helmet") else "in"
                    yield f"a {who} {worn} {phrase} {garment}", f"{who} color", worn_judge(who, garment, color)
    for plural, kinds in COUNTED.items():
        for n in (1, 2, 3):
            name = SINGULAR.get(plural, plural[:-1]) if n == 1 else plural
            yield (
                f"exactly {NUMBERS[n]} {name}",
                f"{plural} count",
                lambda p, k=kinds, m=n: compare(p.count(k), lambda c: c == m),
            )


def worn_judge(who: str, garment: str, color: str) -> Callable[[Photo], bool | None]:
    return lambda photo: is_color(photo.colors_worn(who, garment), color)
