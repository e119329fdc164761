"""Questions about the things, rooms and weather that captions name: how many, what kind, where, what is on what."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from experiments.vqa.parse import (
    ADVERBS,
    ANIMATE,
    COLORS,
    CONJUNCTIONS,
    FORMS,
    GARMENTS,
    HUMANS,
    NOT_ANSWERS,
    PARTICIPLE,
    gerund,
    noun,
    noun_phrase,
    word_set,
)
from experiments.vqa.parse import PREPOSITIONS as ALL_PREPOSITIONS
from experiments.vqa.photo import Photo
from experiments.vqa.things import THINGS, has, is_near, named

HOW_MANY = (
    "are there",
    "are in the picture",
    "do you see",
    "are in the photo",
    "are shown",
    "are visible",
    "can be seen",
)
ROOMS = {
    "kitchen": "kitchen",
    "bathroom": "bathroom restroom",
    "bedroom": "bedroom",
    "living room": "living_room",
    "dining room": "dining_room",
    "office": "office",
}
PLACES = {
    "beach": "beach",
    "street": "street",
    "field": "field pasture meadow",
    "zoo": "zoo",
    "restaurant": "restaurant cafe diner",
    "airport": "airport runway tarmac",
    "train station": "train_station station platform",
    "parking lot": "parking_lot",
    "park": "park",
    "city": "city downtown",
}
WEATHER = {
    "sunny": "sunny sunlight",
    "cloudy": "cloudy overcast",
    "rainy": "rain raining rainy",
    "snowy": "snow snowy snowing",
}
MATERIALS = {"wooden": "wood", "brick": "brick", "metal": "metal", "stone": "stone", "plastic": "plastic"}
MADE = word_set("bench table chair floor wall building fence house bridge cabinet bowl boat desk door bed clock")
VESSELS = word_set("bowl plate cup glass vase basket box tray pan pot bottle bag mug")
FILLED = word_set("of with containing")
PREPOSITIONS = {"on": "on", "in": "in", "on_top_of": "on", "under": "under", "behind": "behind", "next_to": "next to"}
PREPOSITIONS |= {"in_front_of": "in front of", "near": "near", "above": "above", "inside": "in", "at": "at"}
NOT_SUBJECTS = NOT_ANSWERS | COLORS | ADVERBS | CONJUNCTIONS | ALL_PREPOSITIONS | word_set("seen made shown out taken")
INSIDE = ALL_PREPOSITIONS - {"of", "with"}  # what follows is part of another thing's place
STARTS = word_set("a an the two three four five several some many one there is are of and , with his her small large")
POSTURES = {
    "sit": "sitting",
    "stand": "standing",
    "lie": "lying",
    "rest": "resting",
    "perch": "sitting",
    "lean": "leaning",
}


class Relation(NamedTuple):
    """A thing, its state (sitting, parked, or empty), and where: a preposition and a noun."""

    subject: str
    name: str
    state: str
    preposition: str
    place: str


Answers = Mapping[str, int]
Found = tuple[str, str, Answers, Sequence[str]]  # kind, form, answers by caption, texts


def thing_questions(photo: Photo) -> Iterator[Found]:
    """All questions of this file that the captions answer."""
    yield from count_questions(photo)
    yield from kind_questions(photo)
    yield from place_questions(photo)
    yield from relation_questions(photo)


def count_questions(photo: Photo) -> Iterator[Found]:
    """Counts of each thing that the captions count; zero of a thing if the photo has another one of its group."""
    for name, entry in THINGS.items():
        if "plural" not in entry:
            continue
        texts = [f"how many {entry['plural']} {way}?" for way in HOW_MANY]
        number = photo.count_things(named(name, entry))
        if number is not None and 0 < number < 13:
            yield "count", f"how many {number}", {str(number): 1}, texts
        near = entry.get("group") in ("animal", "vehicle", "food") and is_near(photo, entry["group"])
        if near and len(photo.captions) > 2 and has(photo, name, entry) is False:
            yield "count", "how many 0", {"0": 1}, texts


def kind_questions(photo: Photo) -> Iterator[Found]:
    """The kind of animal, vehicle or food, if the captions name just one, and the subject of the picture."""
    times: dict[str, dict[str, int]] = {"animal": {}, "vehicle": {}, "food": {}}
    for name, entry in THINGS.items():
        mentioned = photo.mentions(named(name, entry)) if entry.get("group") in times else 0
        if mentioned:
            times[entry["group"]][name.replace("_", " ")] = mentioned
    for group in ("vehicle", "food"):
        if len(times[group]) == 1 and 2 * max(times[group].values()) > len(photo.captions):
            texts = [f"what kind of {group} is this?", f"what type of {group} is shown?", f"what {group} is this?"]
            yield "what", f"kind of {group}", times[group], texts
    main = {name: n for named_times in times.values() for name, n in named_times.items() if n == len(photo.captions)}
    if len(main) == 1 and not any(head.kind in HUMANS for heads in photo.heads for head in heads):
        yield "what", "what is this", main, ["what is this?", "what is in the picture?", "what is shown in the photo?"]


def place_questions(photo: Photo) -> Iterator[Found]:
    """The room or place, the weather, and the material of things."""
    rooms = named_once(photo, ROOMS)
    yield "what", "room", rooms, ["what room is this?", "what room is shown?", "which room is this?", "where is this?"]
    if not rooms:
        places = named_once(photo, PLACES)
        yield "what", "place", places, ["where is this?", "where was this picture taken?", "what place is this?"]
    weather = named_once(photo, WEATHER)
    yield "what", "weather", weather, ["what is the weather like?", "how is the weather?"]
    made: dict[str, Counter[str]] = defaultdict(Counter)
    for tokens in photo.tokens:
        for word, after in pairwise(tokens):
            if word in MATERIALS and after in MADE:
                made[after][MATERIALS[word]] += 1
    for thing, answers in made.items():
        texts = [f"what is the {thing} made of?", f"what material is the {thing}?"]
        yield "what", "material", answers, texts


def named_once(photo: Photo, names: Mapping[str, str]) -> dict[str, int]:
    """The one of these that the captions name, with the number of captions; empty if none or several."""
    named_ones = {name: photo.mentions(word_set(words)) for name, words in names.items()}
    named_ones = {name: times for name, times in named_ones.items() if times}
    return named_ones if len(named_ones) == 1 else {}


def relation_questions(photo: Photo) -> Iterator[Found]:
    """The place of a thing, the things at a place, and the content of bowls and plates."""
    relations = [named_ones for tokens in photo.tokens for named_ones in relations_of(tokens)]
    at: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    where: dict[str, Counter[str]] = defaultdict(Counter)
    on: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for r in relations:
        at[r.preposition, r.place][r.name] += 1
        if r.preposition in ("on", "in", "at", "under"):
            where[r.subject].update({r.place: 2, f"{r.preposition} {r.place}": 1})
        if r.state:
            on[r.subject, r.state, r.preposition][r.place] += 1
    for tokens in photo.tokens:
        for i, word in enumerate(tokens[:-2]):
            if noun(word) in VESSELS and (tokens[i + 1] in FILLED or tokens[i + 2] == "with"):
                start = i + 2 if tokens[i + 1] in FILLED else i + 3
                name = noun_phrase(tokens, start)[0] or ""
                if name and name not in VESSELS:
                    at["on" if noun(word) in ("plate", "tray") else "in", noun(word)][name] += 1
    for (preposition, place), names in at.items():
        yield "what", f"what {preposition}", names, [f"what is {preposition} the {place}?"]
    for subject, places in where.items():
        yield "what", "where is", places, [f"where {be(subject)} the {subject}?"]
    for (subject, state, preposition), places in on.items():
        yield "what", f"{state} {preposition}", places, [f"what {be(subject)} the {subject} {state} {preposition}?"]


def be(subject: str) -> str:
    """are for plurals, is for others."""
    plural = ANIMATE[subject][1] if subject in ANIMATE else noun(subject) != subject and subject.endswith("s")
    return "are" if plural else "is"


def relations_of(tokens: Sequence[str]) -> Iterator[Relation]:
    """Places of the things that begin a clause of a caption: the clause is about them."""
    for i, word in enumerate(tokens):
        if word not in PREPOSITIONS or i < 2:
            continue
        place = noun_phrase(tokens, i + 1)[0]
        at = i - 1
        state = ""
        form = FORMS.get(tokens[at], ("", ""))
        if form[1] == "ing" or PARTICIPLE.search(tokens[at]):
            state = POSTURES.get(form[0], gerund(form[0]) if form[0] else tokens[at])
            at -= 1
            at -= tokens[at] in ("is", "are")
        subject = tokens[at] if at > 0 else ""
        name = noun(subject)
        unfit = name in NOT_SUBJECTS or subject in FORMS or PARTICIPLE.search(name) or len(name) < 3
        start = at - 1
        while start >= 0 and tokens[start] not in STARTS and re.fullmatch("[a-z_]+", tokens[start]) and at - start < 3:
            start -= 1
        before = tokens[start - 1] if start > 0 else ""
        begins = start < 0 or (tokens[start] in STARTS and before not in FORMS and before not in INSIDE)
        if place and place not in GARMENTS and subject and not unfit and begins and name != place:
            yield Relation(subject, name, state, PREPOSITIONS[word], place)
