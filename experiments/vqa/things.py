"""Things that photos show: the words that name them, ways to ask for them, and the verdict of captions on them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from experiments.vqa.parse import WORDS, word_set
from experiments.vqa.photo import Photo, absent

ASKED: dict[str, dict[str, dict[str, str]]] = tomllib.loads((Path(__file__).parent / "questions.toml").read_text())
THINGS: dict[str, dict[str, str]] = {
    **ASKED["things"],
    **tomllib.loads((Path(__file__).parent / "things.toml").read_text()),
}
MASS = ("snow", "water", "grass", "wine", "coffee", "broccoli")
PLURAL = ("skis", "flowers", "glasses", "sunglasses")


def named(thing: str, entry: Mapping[str, str]) -> frozenset[str]:
    """The words that name a thing."""
    animals = WORDS["animals"].get(thing, thing)
    return word_set(entry["yes"]) if "yes" in entry else _plurals(animals)


@cache
def _plurals(words: str) -> frozenset[str]:
    return frozenset(form for word in words.split() for form in (word, f"{word}s"))


@cache
def group_words(group: str) -> frozenset[str]:
    """The words for all things of a group: what a thing is distinguished from."""
    return frozenset(w for thing, e in THINGS.items() if e.get("group") == group for w in named(thing, e))


def is_near(photo: Photo, group: str) -> bool:
    """Whether something of this group is mentioned."""
    return bool(group) and photo.mentions(group_words(group)) > 0


def article(thing: str) -> str:
    """a bus, an airplane."""
    thing = thing.replace("_", " ")
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def there(thing: str) -> list[str]:
    """Ways to ask whether there is one."""
    name = thing.replace("_", " ")
    if thing in PLURAL:
        worn = [f"is anyone wearing {name}?"] if thing.endswith("glasses") else []
        return [*worn, f"are there {name}?", f"do you see any {name}?"]
    if thing in MASS:
        return [f"is there {name}?", f"is there any {name} in the picture?", f"do you see {name}?"]
    single = article(thing)
    more = {
        "child": ["are there children?", "are there any children in the picture?"],
        "person": ["are there people?", "are there any people in the picture?", "is anyone in the picture?"],
    }.get(thing, [])
    if thing in THINGS and "plural" in THINGS[thing]:
        plural = THINGS[thing]["plural"]
        more = [f"are there {plural} in the picture?", f"are there any {plural}?", f"do you see any {plural}?"]
    return [
        f"is there {single}?",
        f"is there {single} in the picture?",
        f"do you see {single}?",
        f"is {single} in the photo?",
        *more,
    ]


def has(photo: Photo, thing: str, entry: Mapping[str, str], at_least: int = 1) -> bool | None:
    """True if that many captions mention it, False if it is surely absent."""
    words = named(thing, entry)
    if photo.mentions(words) >= at_least:
        return True
    return False if photo.vocab.isdisjoint(words) and absent(photo, entry, thing) else None


def is_main(photo: Photo, thing: str, entry: Mapping[str, str]) -> bool | None:
    """Whether it is what the photo shows: named by most captions; not if it is surely absent."""
    times = photo.mentions(named(thing, entry))
    if 2 * times > len(photo.captions):
        return True
    return False if not times and absent(photo, entry, thing) else None
