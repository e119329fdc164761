"""Yes/no questions about a photo, judged by its captions (questions and refuting words are in `questions.toml`)."""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.vqa.parse import (
    COLORS,
    HUMANS,
    SAME_COLOR,
    WORDS,
    colors_agree,
    gerund,
    is_near_color,
    word_set,
)
from experiments.vqa.photo import PLACES, PLURAL_NAMES, Photo, absent

ASKED: dict[str, dict[str, dict[str, str]]] = tomllib.loads((Path(__file__).parent / "questions.toml").read_text())
MASS = ("snow", "water", "grass")
PERSONS = word_set("man woman boy girl men women boys girls people child children person lady guy kids")
COUNTED = {
    "dogs": ("dog",),
    "people": HUMANS,
    "men": ("man",),
    "women": ("woman",),
    "boys": ("boy",),
    "girls": ("girl",),
    "children": ("boy", "girl", "child"),
    "horses": ("horse",),
    "birds": ("bird",),
}
WHO = ("man", "woman", "boy", "girl", "child", "person", "dog", *PLURAL_NAMES.values())
IN_PLACE = {"water": "in the water", "grass": "on the grass", "snow": "in the snow", "beach": "on the beach"}
SILENT = {"hold", "carry", "wear"}  # mentioned in addition to an act
INDOORS = word_set("indoors room couch bed kitchen gym carpet restaurant office bedroom bathroom livingroom ceiling")
OUTDOORS = word_set("beach ocean field street snow mountain road lake forest river grass sand park yard trail hill")
NIGHT, DAY = word_set("night nighttime darkness"), word_set("sunny sun sunlight day blue_sky daylight afternoon grassy")
SHIRT, BARE = word_set("shirt sweater jersey sweatshirt"), word_set("shirtless no_shirt bare_chest bare_chested")

Judge = Callable[[Photo], bool | None]


class Form(NamedTuple):
    """A yes/no question: its name, its texts, who judges it, and which photos are the harder ones to say no to."""

    name: str
    texts: list[str]
    judge: Judge
    is_hard: Judge = lambda _: False


def draw(photos: Sequence[Photo], cap: int, share: float, rng: random.Random) -> Iterator[tuple[str, str, str, str]]:
    """Key, question, answer and form name: of every text as many yes as no, `cap` each of a form at most.

    Of what there would be, `share` is drawn.
    """
    for form in forms():
        verdicts = [(photo, form.judge(photo)) for photo in photos]
        yes, no = ([photo for photo, verdict in verdicts if verdict is expected] for expected in (True, False))
        rng.shuffle(yes)
        rng.shuffle(no)
        hard = [photo for photo in no if form.is_hard(photo)][: min(len(yes), cap) // 2]
        chosen = {photo.key for photo in hard}
        pairs = list(zip(yes, hard + [photo for photo in no if photo.key not in chosen], strict=False))[:cap]
        for pair in pairs[: math.ceil(share * len(pairs))]:
            text = rng.choice(form.texts)
            for photo, answer in zip(pair, ("yes", "no"), strict=True):
                yield photo.key, text, answer, form.name


def forms() -> Iterator[Form]:
    """Every yes/no question."""
    yield from _there()
    yield from _acts()
    yield from _colors()
    yield from _numbers()
    yield from _surroundings()


def _there() -> Iterator[Form]:
    for thing, entry in ASKED["things"].items():
        yield Form(f"there:{thing}", there(thing), lambda p, t=thing, e=entry: has(p, t, e))
    for who, entry in ASKED["people"].items():
        judge = lambda p, t=who, e=entry: has(p, t, e, at_least=2)  # noqa: E731
        yield Form(f"there:{who}", there(who), judge, lambda p: p.mentions(PERSONS) > 2)


def _acts() -> Iterator[Form]:
    for act, entry in ASKED["acts"].items():
        for who in WHO:
            text = f"{be(who)} the {who} {gerund(act)}?"
            yield Form(f"act:{act}", [text], lambda p, w=who, a=act, e=entry: does(p, w, a, e))
    for place, phrase in IN_PLACE.items():
        for who in WHO:
            yield Form(f"in:{place}", [f"{be(who)} the {who} {phrase}?"], lambda p, w=who, x=place: is_in(p, w, x))


def _colors() -> Iterator[Form]:
    for color in sorted(COLORS - SAME_COLOR.keys()):
        for thing in ("dog", "car", "ball"):
            judge = lambda p, t=thing, c=color: is_color(p.colors_of(t), c)  # noqa: E731
            yield Form("is color", [f"is the {thing} {color}?"], judge)
        for who in ("man", "woman", "boy", "girl", "person", "child"):
            for garment in ("shirt", "jacket", "hat", "dress", "helmet", "hair", "shorts"):
                plural = garment in WORDS["colors"]["plural"].split()
                texts = [f"{'are' if plural else 'is'} the {who}'s {garment} {color}?"]
                if garment != "hair":
                    single = "" if plural else "an " if color == "orange" else "a "
                    texts.append(f"is the {who} wearing {single}{color} {garment}?")
                yield Form("is color", texts, lambda p, w=who, g=garment, c=color: is_color(p.colors_worn(w, g), c))


def _numbers() -> Iterator[Form]:
    for plural, kinds in COUNTED.items():
        single = {"people": "person", "children": "child"}.get(plural) or kinds[0]
        yield Form(
            "more", [f"is there more than one {single}?"], lambda p, k=kinds: compare(p.count(k), lambda n: n > 1)
        )
        for word, number in (("two", 2), ("three", 3)):
            judge = lambda p, k=kinds, m=number: compare(p.count(k), lambda n: n == m)  # noqa: E731
            yield Form("exactly", [f"are there {word} {plural}?"], judge)
    for who in ("man", "woman", "boy", "girl", "child"):
        judge = lambda p, w=who: compare(p.count(HUMANS) if w in p.ones else None, lambda n: n == 1)  # noqa: E731
        yield Form("alone", [f"is the {who} alone?"], judge)


def _surroundings() -> Iterator[Form]:
    for who in ("man", "boy", "person", "child"):
        yield Form("shirt", [f"is the {who} wearing a shirt?"], lambda p, w=who: wears_shirt(p, w))
    yield Form("indoors", ["is this indoors?", "was this taken inside?"], lambda p: either(p, INDOORS, OUTDOORS))
    yield Form("outdoors", ["is this outdoors?", "is this outside?"], lambda p: either(p, OUTDOORS, INDOORS))
    yield Form("night", ["is it night?", "is it dark outside?"], lambda p: either(p, NIGHT, DAY))


def be(who: str) -> str:
    """are for plurals, is for others."""
    return "are" if who in PLURAL_NAMES.values() else "is"


def compare(number: int | None, test: Callable[[int], bool]) -> bool | None:
    """The test's verdict on a known number above 0."""
    return test(number) if number else None


def there(thing: str) -> list[str]:
    """Ways to ask whether there is one."""
    if thing == "sunglasses":
        return ["is anyone wearing sunglasses?", "are there sunglasses?"]
    if thing in MASS:
        return [f"is there {thing}?", f"is there any {thing} in the picture?", f"do you see {thing}?"]
    single = f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    more = {
        "child": ["are there children?", "are there any children in the picture?"],
        "person": ["are there people?", "are there any people in the picture?"],
    }.get(thing, [])
    return [
        f"is there {single}?",
        f"is there {single} in the picture?",
        f"do you see {single}?",
        f"is {single} in the photo?",
        *more,
    ]


def has(photo: Photo, thing: str, entry: Mapping[str, str], at_least: int = 1) -> bool | None:
    """True if that many captions mention it, False if it is surely absent."""
    words = entry.get("yes") or " ".join(f"{w} {w}s" for w in WORDS["animals"][thing].split())
    if photo.mentions(word_set(words)) >= at_least:
        return True
    return False if absent(photo, {**entry, "yes": words}, thing) else None


def does(photo: Photo, who: str, act: str, entry: Mapping[str, str]) -> bool | None:
    verbs = {a.verb for a in photo.acts_of(who)}
    if act in verbs:
        return True
    known = {v for v in verbs if v not in SILENT - {"look"}}
    sure = known and known <= word_set(entry["no"]) and not photo.vocab & word_set(entry["close"])
    return False if sure else None


def is_in(photo: Photo, who: str, place: str) -> bool | None:
    nouns = {a.noun for a in photo.acts_of(who) if a.preposition in ("in", "on", "through", "across", "into", "along")}
    if nouns & {place, *PLACES[place]}:
        return True
    elsewhere = {n for n in nouns if any(n in words for words in PLACES.values())}
    return False if elsewhere and absent(photo, ASKED["things"][place], place) else None


def is_color(colors_by_caption: Sequence[tuple[str, ...]], color: str) -> bool | None:
    colors = {c for single in colors_by_caption for c in single}
    if not colors or not colors_agree(colors_by_caption):
        return None
    if color in colors:
        return True if all(color in single for single in colors_by_caption) else None
    return None if is_near_color(color, colors) else False


def wears_shirt(photo: Photo, who: str) -> bool | None:
    return either(photo, SHIRT, BARE) if photo.lone_human and who in photo.ones else None


def either(photo: Photo, these: set[str], those: set[str]) -> bool | None:
    """True if only these words occur, False if only those do."""
    a, b = photo.mentions(these) > 0, photo.mentions(those) > 0
    return a if a != b else None
