"""Yes/no questions about a photo, judged by its captions (questions and refuting words are in `questions.toml`)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from experiments.vqa.closed_things import Form, compare, surrounding_forms, thing_forms
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
from experiments.vqa.things import ASKED, has, there

PAIRS = 40  # yes and no of a text
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
ANIMALS = word_set("dog cat horse bird cow elephant bear zebra giraffe")
WHO = ("man", "woman", "boy", "girl", "child", "person", *sorted(ANIMALS), *PLURAL_NAMES.values())
IN_PLACE = {"water": "in the water", "grass": "on the grass", "snow": "in the snow", "beach": "on the beach"}
SILENT = {"hold", "carry", "wear"}  # mentioned in addition to an act


def draw(photos: Sequence[Photo], rng: random.Random) -> Iterator[tuple[str, str, str, str]]:
    """Key, question, answer and form name: of every text as many yes as no, about `PAIRS` of each."""
    by_subject: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        for name in photo.subjects:
            by_subject[name].append(photo)
    for form in forms():
        cap = PAIRS * len(form.texts)
        verdicts = [(photo, form.judge(photo)) for photo in (by_subject[form.subject] if form.subject else photos)]
        yes, no = ([photo for photo, verdict in verdicts if verdict is expected] for expected in (True, False))
        rng.shuffle(yes)
        rng.shuffle(no)
        hard = [photo for photo in no if form.is_hard(photo)][: min(len(yes), cap) // 2]
        chosen = {photo.key for photo in hard}
        for pair in list(zip(yes, hard + [photo for photo in no if photo.key not in chosen], strict=False))[:cap]:
            text = rng.choice(form.texts)
            for photo, answer in zip(pair, ("yes", "no"), strict=True):
                yield photo.key, text, answer, form.name


def forms() -> Iterator[Form]:
    """Every yes/no question."""
    yield from thing_forms()
    yield from surrounding_forms()
    for who, entry in ASKED["people"].items():
        judge = lambda p, t=who, e=entry: has(p, t, e, at_least=2)  # noqa: E731
        yield Form(f"there:{who}", there(who), judge, lambda p: p.mentions(PERSONS) > 2)
    yield from _acts()
    yield from _colors()
    yield from _numbers()


def _acts() -> Iterator[Form]:
    for act, entry in ASKED["acts"].items():
        for who in WHO:
            text = f"{be(who)} the {who} {gerund(act)}?"
            yield Form(f"act:{act}", [text], lambda p, w=who, a=act, e=entry: does(p, w, a, e), subject=who)
    for place, phrase in IN_PLACE.items():
        for who in WHO:
            yield Form(
                f"in:{place}", [f"{be(who)} the {who} {phrase}?"], lambda p, w=who, x=place: is_in(p, w, x), subject=who
            )


def _colors() -> Iterator[Form]:
    for color in sorted(COLORS - SAME_COLOR.keys()):
        for thing in ("dog", "cat", "horse", "car", "ball", "bus", "train", "truck", "couch", "umbrella", "motorcycle"):
            judge = lambda p, t=thing, c=color: is_color(p.colors_of(t), c)  # noqa: E731
            yield Form("is color", [f"is the {thing} {color}?"], judge, subject=thing)
        for who in ("man", "woman", "boy", "girl", "person", "child"):
            for garment in ("shirt", "jacket", "hat", "dress", "helmet", "hair", "shorts"):
                plural = garment in WORDS["colors"]["plural"].split()
                texts = [f"{'are' if plural else 'is'} the {who}'s {garment} {color}?"]
                if garment != "hair":
                    single = "" if plural else "an " if color == "orange" else "a "
                    texts.append(f"is the {who} wearing {single}{color} {garment}?")
                yield Form(
                    "is color",
                    texts,
                    lambda p, w=who, g=garment, c=color: is_color(p.colors_worn(w, g), c),
                    subject=who,
                )


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
        yield Form("alone", [f"is the {who} alone?"], judge, subject=who)


def be(who: str) -> str:
    """are for plurals, is for others."""
    return "are" if who in PLURAL_NAMES.values() else "is"


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
