"""Yes/no questions about things, how many there are, and the place, weather and kind of a photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from experiments.vqa.parse import COLORS, word_set
from experiments.vqa.photo import Photo
from experiments.vqa.things import PLURAL, THINGS, article, has, is_main, is_near, named, there

ROOMS = {
    "kitchen": "kitchen",
    "bathroom": "bathroom restroom",
    "bedroom": "bedroom",
    "living room": "living_room",
    "office": "office",
    "restaurant": "restaurant cafe",
}
SCENES = {
    "beach": "beach",
    "zoo": "zoo",
    "airport": "airport runway tarmac",
    "train station": "train_station",
    "parking lot": "parking_lot",
    "street": "street intersection",
    "farm": "farm pasture barn",
    "forest": "forest woods wooded",
    "baseball field": "baseball",
    "tennis court": "tennis",
}
SKIES = {
    "sunny": ("sunny sunlight sunshine", "cloudy overcast rain raining rainy snowing stormy"),
    "cloudy": ("cloudy overcast", "sunny clear_sky cloudless"),
    "raining": ("rain raining rainy", "sunny clear_sky snow"),
    "snowing": ("snowing", "sunny rain beach grass"),
}
MOVING = word_set("traveling travelling moving driving drives flying flies going rides racing speeding rolling travels")
STILL = word_set("parked stopped sits sitting docked stationary parking anchored")
GRAY_WORDS = word_set("photo picture photograph image shot pic")
INDOORS = word_set(
    "indoors room couch bed kitchen gym carpet restaurant office bedroom bathroom living_room dining_room ceiling"
)
OUTDOORS = word_set("beach ocean field street snow mountain road lake forest river grass sand park yard trail hill")
NIGHT, DAY = word_set("night nighttime darkness"), word_set("sunny sun sunlight day blue_sky daylight afternoon grassy")
SHIRT, BARE = word_set("shirt sweater jersey sweatshirt"), word_set("shirtless no_shirt bare_chest bare_chested")

Judge = Callable[[Photo], bool | None]


class Form(NamedTuple):
    """A yes/no question: its name, its texts, who judges it, and which photos are the harder ones to say no to.

    subject: a name that the photo must have among its `subjects`, if given.
    """

    name: str
    texts: list[str]
    judge: Judge
    is_hard: Judge = lambda _: False
    subject: str = ""


def thing_forms() -> Iterator[Form]:
    """Presence of a thing, alone or among several, as the subject of the photo, or worn by a person."""
    for thing, entry in THINGS.items():
        group = entry.get("group", "")
        is_hard = lambda p, g=group: is_near(p, g)  # noqa: E731
        yield Form(f"there:{thing}", there(thing), lambda p, t=thing, e=entry: has(p, t, e), is_hard)
        if group in ("animal", "vehicle", "food"):
            judge = lambda p, t=thing, e=entry: is_main(p, t, e)  # noqa: E731
            yield Form(f"is this:{thing}", [f"is this {article(thing)}?"], judge, is_hard)
        if group == "worn":
            what = thing if thing in PLURAL else article(thing)
            for who in ("man", "woman", "boy", "girl", "person"):
                judge = lambda p, w=who, t=thing, e=entry: has(p, t, e) if p.lone_human and w in p.ones else None  # noqa: E731
                yield Form(f"wears:{thing}", [f"is the {who} wearing {what}?"], judge, subject=who)
        if "plural" in entry:
            plural, words = entry["plural"], named(thing, entry)
            texts = [f"is there more than one {thing.replace('_', ' ')}?", f"are there multiple {plural}?"]
            yield Form("more", texts, lambda p, w=words: compare(p.count_things(w), lambda n: n > 1))
            texts = [f"are there two {plural}?", f"do you see two {plural}?"]
            yield Form("exactly", texts, lambda p, w=words: compare(p.count_things(w), lambda n: n == 2))
    for vehicle in ("train", "bus", "car", "motorcycle", "truck", "boat", "airplane"):
        yield Form("moving", [f"is the {vehicle} moving?"], lambda p, v=vehicle: moves(p, v))


def surrounding_forms() -> Iterator[Form]:
    """Rooms, places, weather, time of day, and whether the photo is in color."""
    for name, words in ROOMS.items():
        texts = [f"is this {article(name)}?", f"was this taken in {article(name)}?"]
        yield Form("room", texts, lambda p, w=words: is_room(p, word_set(w)))
    for name, words in SCENES.items():
        others = " ".join(ws for other, ws in SCENES.items() if other != name)
        texts = [f"is this {article(name)}?"]
        yield Form("scene", texts, lambda p, a=words, b=others: either(p, word_set(a), word_set(b)))
    for name, (these, those) in SKIES.items():
        texts = [f"is it {name}?", f"is it {name} outside?", f"is it {name} in the picture?"]
        yield Form("weather", texts, lambda p, a=these, b=those: either(p, word_set(a), word_set(b)))
    texts = ["is this photo black and white?", "is the photo in black and white?", "is this a black and white photo?"]
    yield Form("gray", texts, is_gray)
    yield Form("gray", ["is this photo in color?", "is this a color photo?"], lambda p: opposite(is_gray(p)))
    for who in ("man", "boy", "person", "child"):
        yield Form("shirt", [f"is the {who} wearing a shirt?"], lambda p, w=who: wears_shirt(p, w), subject=who)
    yield Form("indoors", ["is this indoors?", "was this taken inside?"], lambda p: either(p, INDOORS, OUTDOORS))
    yield Form("outdoors", ["is this outdoors?", "is this outside?"], lambda p: either(p, OUTDOORS, INDOORS))
    yield Form("night", ["is it night?", "is it dark outside?"], lambda p: either(p, NIGHT, DAY))


def moves(photo: Photo, vehicle: str) -> bool | None:
    """Whether a vehicle moves, if there is just one and the captions say so."""
    words = named(vehicle, THINGS[vehicle])
    return either(photo, MOVING, STILL) if photo.count_things(words) == 1 else None


def is_room(photo: Photo, words: AbstractSet[str]) -> bool | None:
    """Whether it is this room; not if another room is named or the photo is of an animal or sport outside."""
    others = {w for ws in ROOMS.values() for w in ws.split()} - words
    return either(photo, words, others | OUTDOORS)


def is_gray(photo: Photo) -> bool | None:
    """Whether a caption calls the photo black and white; not if captions name other colours."""
    if any(f"black and white {word}" in " ".join(tokens) for tokens in photo.tokens for word in GRAY_WORDS):
        return True
    return False if photo.vocab & (COLORS - {"black", "white", "gray", "grey", "silver"}) else None


def opposite(verdict: bool | None) -> bool | None:
    return None if verdict is None else not verdict


def wears_shirt(photo: Photo, who: str) -> bool | None:
    return either(photo, SHIRT, BARE) if photo.lone_human and who in photo.ones else None


def either(photo: Photo, these: AbstractSet[str], those: AbstractSet[str]) -> bool | None:
    """True if only these words occur, False if only those do."""
    a, b = photo.mentions(these) > 0, photo.mentions(those) > 0
    return a if a != b else None


def compare(number: int | None, test: Callable[[int], bool]) -> bool | None:
    """The test's verdict on a known number above 0."""
    return test(number) if number else None
