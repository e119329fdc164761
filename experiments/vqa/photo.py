"""Facts that the captions of a photo agree on: who and how many, what they do, what is surely absent.

Facts that the captions leave open are None, never guessed.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.vqa.parse import (
    CROWDS,
    HUMANS,
    NOT_THING_AFTER,
    UNCOUNTED,
    WORDS,
    Act,
    Head,
    acts_of,
    colors_of,
    heads_of,
    number_of,
    tokens_of,
    word_set,
)

PLURAL_NAMES = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "boy": "boys",
    "girl": "girls",
    "child": "children",
    "dog": "dogs",
    "cat": "cats",
    "horse": "horses",
    "bird": "birds",
    "cow": "cows",
    "sheep": "sheep",
    "elephant": "elephants",
    "bear": "bears",
    "zebra": "zebras",
    "giraffe": "giraffes",
}
PLACES = {name: word_set(words) for name, words in WORDS["places"].items()}


@dataclass
class Photo:
    """Parsed captions of a photo. Unique persons and animals are in `ones`, groups in `groups`: name to heads."""

    key: str
    captions: list[str]

    def __post_init__(self) -> None:
        self.tokens = [tokens_of(c) for c in self.captions]
        self.vocabs = [{*t, *(f"{a}_{b}" for a, b in pairwise(t))} for t in self.tokens]
        self._counts: dict[frozenset[str], int | None] = {}
        self.vocab: set[str] = set().union(*self.vocabs)
        self.heads = [heads_of(t) for t in self.tokens]
        self.acts = [acts_of(t, h) for t, h in zip(self.tokens, self.heads, strict=True)]
        self.colors = [colors_of(t, h) for t, h in zip(self.tokens, self.heads, strict=True)]

    def mentions(self, words: AbstractSet[str]) -> int:
        """Number of captions with one of the words or two-word phrases (a_b)."""
        return 0 if self.vocab.isdisjoint(words) else sum(not vocab.isdisjoint(words) for vocab in self.vocabs)

    def count(self, kinds: Iterable[str]) -> int | None:
        """Number of these kinds: 1 if all captions that name them agree, more if three agree on the maximum."""
        kinds = frozenset(kinds)
        if kinds not in self._counts:
            self._counts[kinds] = self._count(kinds)
        return self._counts[kinds]

    def _count(self, kinds: AbstractSet[str]) -> int | None:
        numbers: list[int | None] = []
        for tokens, heads in zip(self.tokens, self.heads, strict=True):
            mine = [h for h in heads if h.kind in kinds]
            human = bool(kinds & set(HUMANS))
            if human and set(tokens) & UNCOUNTED:
                return None
            if mine or (human and set(tokens) & CROWDS):
                vague = any(h.number is None for h in mine) or not mine
                numbers.append(None if vague else sum(h.number or 0 for h in mine))
        return self.agreed(numbers)

    def count_things(self, words: AbstractSet[str]) -> int | None:
        """Number of the things that these words, singular and plural, mean, by the same rule."""
        if self.vocab.isdisjoint(words):
            return None
        numbers: list[int | None] = []
        for tokens in self.tokens:
            not_after = NOT_THING_AFTER | words  # jet airplane
            at = [i for i, word in enumerate(tokens) if word in words and not set(tokens[i + 1 : i + 2]) & not_after]
            single = [number_of(tokens[max(0, i - 5) : i], tokens[i], _is_plural(tokens[i]), i != at[0]) for i in at]
            if at:
                numbers.append(None if None in single else sum(n or 0 for n in single))
        return self.agreed(numbers)

    def agreed(self, numbers: Sequence[int | None]) -> int | None:
        """The number on which captions agree that say it; one caption is enough only if the photo has no others."""
        known = Counter(n for n in numbers if n is not None)
        if not known:
            return None
        most, times = known.most_common(1)[0]
        if len(self.captions) == 1:
            return most
        if most == 1:
            return 1 if times == len(numbers) > 1 else None
        return most if times > 2 and max(known) == most else None

    @cached_property
    def lone_human(self) -> bool:
        """Whether all captions that name people name just one."""
        return self.count(HUMANS) == 1

    @cached_property
    def ones(self) -> dict[str, list[list[Head]]]:
        """Unique persons and animals (man, dog, ...) and, per caption, the heads that mean them."""
        kinds = Counter(h.kind for heads in self.heads for h in heads)
        unique: dict[str, list[list[Head]]] = {}
        others: dict[str, list[list[Head]]] = {}
        if self.lone_human:
            named = {k: n for k, n in kinds.items() if k in HUMANS}
            sure = Counter({k: n for k, n in named.items() if k not in ("person", "child")})
            agree = len(sure) == 1 or (len(sure) == 2 and sure.keys() in ({"man", "boy"}, {"woman", "girl"}))
            name = sure.most_common(1)[0][0] if sure and agree else "child" if named.get("child", 0) > 2 else "person"
            unique[name] = [[h for h in heads if h.kind in HUMANS] for heads in self.heads]
        for kind in kinds:
            apart = kind not in HUMANS or (not unique and kind in ("man", "woman", "boy", "girl"))
            if apart and self.count((kind,)) == 1:
                others[kind] = [[h for h in heads if h.kind == kind] for heads in self.heads]
        return unique | others

    @cached_property
    def groups(self) -> dict[str, list[list[Head]]]:
        """Kinds that all captions name in the plural: people, men, dogs, ..., and their heads."""
        groups = {}
        for kind, name in PLURAL_NAMES.items():
            mine = [[h for h in heads if h.kind == kind] for heads in self.heads]
            flat = [h for heads in mine for h in heads]
            if len([m for m in mine if m]) > 1 and all(h.plural for h in flat):
                groups[name] = mine
        return groups

    @cached_property
    def subjects(self) -> set[str]:
        """Names of the persons, animals and groups, and of what has a color."""
        return {*self.ones, *self.groups, *(color.noun for colors in self.colors for color in colors)}

    def acts_of(self, who: str) -> list[Act]:
        """Acts of the person, animal or group of this name."""
        heads = self.ones.get(who) or self.groups.get(who)
        return self.acts_by(heads) if heads else []

    def colors_of(self, thing: str) -> list[tuple[str, ...]]:
        """Colours of a thing in each caption with colours; empty if a caption mentions several such things."""
        by_caption = [[c.colors for c in colors if c.noun == thing] for colors in self.colors]
        if not any(by_caption):
            return []
        several = thing + "s" in self.vocab or (thing in WORDS["animals"] and self.count((thing,)) != 1)
        return [] if several or any(len(c) > 1 for c in by_caption) else [c[0] for c in by_caption if c]

    def colors_worn(self, who: str, garment: str) -> list[tuple[str, ...]]:
        """Colours of a garment of `who`, if `who` is unique."""
        if who not in self.ones:
            return []
        captions = zip(self.colors, self.ones[who], strict=True)
        by_caption = [
            [c.colors for c in colors if c.noun == garment and c.owner in heads] for colors, heads in captions
        ]
        return [] if any(len(c) > 1 for c in by_caption) else [c[0] for c in by_caption if c]

    def acts_by(self, heads: Sequence[Sequence[Head]]) -> list[Act]:
        """Acts of these heads."""
        return [act for acts, mine in zip(self.acts, heads, strict=True) for act in acts if act.head in mine]


def _is_plural(word: str) -> bool:
    return word in ("cattle", "geese") or (word.endswith("s") and word not in ("bus", "glass", "skis"))


def absent(photo: Photo, entry: Mapping[str, str], name: str) -> bool:
    """Whether a thing is surely absent: nothing close to it is mentioned, and the words of `only` are."""
    close = (word_set(entry.get("yes", name)), word_set(entry.get("close", "")))
    mentioned = any(not photo.vocab.isdisjoint(words) for words in close)
    return not mentioned and ("only" not in entry or not photo.vocab.isdisjoint(word_set(entry["only"])))


def read_shards(shards: Sequence[Path], photos: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and sidecar of every sample, in order; its photo is written to photos/KEY.jpg if missing."""
    photos.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        with tarfile.open(shard) as archive:
            for member in archive:
                stem, _, suffix = member.name.rpartition(".")
                content = archive.extractfile(member)
                assert content is not None
                if suffix == "json":
                    yield stem, json.load(content)
                elif not (photos / member.name).exists():
                    (photos / member.name).write_bytes(content.read())
