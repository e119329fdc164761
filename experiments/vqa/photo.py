"""What the captions of a photo say together: who is there and how many, what they do, what is surely not there.

What the captions leave open is None, never a guess.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.vqa.parse import (
    CROWDS,
    HUMANS,
    UNCOUNTED,
    WORDS,
    Act,
    Head,
    acts_of,
    colors_of,
    heads_of,
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
}
PLACES = {name: word_set(words) for name, words in WORDS["places"].items()}


@dataclass
class Photo:
    """A photo's captions, read. Whoever is unique of its kind is in `ones`, groups in `groups`: name to acts."""

    key: str
    captions: list[str]

    def __post_init__(self) -> None:
        self.tokens = [tokens_of(c) for c in self.captions]
        self.vocabs = [{*t, *(f"{a}_{b}" for a, b in pairwise(t))} for t in self.tokens]
        self.vocab: set[str] = set().union(*self.vocabs)
        self.heads = [heads_of(t) for t in self.tokens]
        self.acts = [acts_of(t, h) for t, h in zip(self.tokens, self.heads, strict=True)]
        self.colors = [colors_of(t, h) for t, h in zip(self.tokens, self.heads, strict=True)]

    def says(self, words: set[str]) -> int:
        """How many captions have one of the words or two-word phrases (a_b)."""
        return sum(1 for vocab in self.vocabs if vocab & words)

    def count(self, kinds: Iterable[str]) -> int | None:
        """How many of these kinds there are: one if all who name them say so, more if three agree, none says more."""
        kinds = set(kinds)
        numbers: list[int | None] = []
        for tokens, heads in zip(self.tokens, self.heads, strict=True):
            mine = [h for h in heads if h.kind in kinds]
            human = bool(kinds & set(HUMANS))
            if human and set(tokens) & UNCOUNTED:
                return None
            if mine or (human and set(tokens) & CROWDS):
                vague = any(h.number is None for h in mine) or not mine
                numbers.append(None if vague else sum(h.number or 0 for h in mine))
        known = Counter(n for n in numbers if n is not None)
        if not known:
            return None
        most, times = known.most_common(1)[0]
        if most == 1:
            return 1 if times == len(numbers) > 1 else None
        return most if times > 2 and max(known) == most else None

    @cached_property
    def lone_human(self) -> bool:
        """Whether all captions that name people name just one."""
        return self.count(HUMANS) == 1

    @cached_property
    def ones(self) -> dict[str, list[list[Head]]]:
        """Who is unique of its kind (man, dog, ...) and the heads, per caption, that mean it."""
        kinds = Counter(h.kind for heads in self.heads for h in heads)
        found: dict[str, list[list[Head]]] = {}
        others: dict[str, list[list[Head]]] = {}
        if self.lone_human:
            named = {k: n for k, n in kinds.items() if k in HUMANS}
            sure = Counter({k: n for k, n in named.items() if k not in ("person", "child")})
            agree = len(sure) == 1 or (len(sure) == 2 and sure.keys() in ({"man", "boy"}, {"woman", "girl"}))
            name = sure.most_common(1)[0][0] if sure and agree else "child" if named.get("child", 0) > 2 else "person"
            found[name] = [[h for h in heads if h.kind in HUMANS] for heads in self.heads]
        for kind in kinds:
            apart = kind not in HUMANS or (not found and kind in ("man", "woman", "boy", "girl"))
            if apart and self.count((kind,)) == 1:
                others[kind] = [[h for h in heads if h.kind == kind] for heads in self.heads]
        return found | others

    @cached_property
    def groups(self) -> dict[str, list[list[Head]]]:
        """Kinds that all captions name in the plural: people, men, dogs, ..., and their heads."""
        found = {}
        for kind, name in PLURAL_NAMES.items():
            mine = [[h for h in heads if h.kind == kind] for heads in self.heads]
            flat = [h for heads in mine for h in heads]
            if len([m for m in mine if m]) > 1 and all(h.plural for h in flat):
                found[name] = mine
        return found

    def acts_of(self, who: str) -> list[Act]:
        """All that the one or the group of this name does."""
        return self.acts_by(self.ones.get(who) or self.groups.get(who) or [[]] * len(self.heads))

    def colors_of(self, thing: str) -> list[tuple[str, ...]]:
        """Its colours in every caption that tells them; none if a caption tells of several such things."""
        found = [[c.colors for c in colors if c.noun == thing] for colors in self.colors]
        several = thing + "s" in self.vocab or (thing in WORDS["animals"] and self.count((thing,)) != 1)
        return [] if several or any(len(one) > 1 for one in found) else [one[0] for one in found if one]

    def colors_worn(self, who: str, garment: str) -> list[tuple[str, ...]]:
        """The same of what `who` wears, if there is just one of them."""
        told = zip(self.colors, self.ones.get(who, [[]] * len(self.heads)), strict=True)
        found = [[c.colors for c in colors if c.noun == garment and c.owner in heads] for colors, heads in told]
        return [] if any(len(one) > 1 for one in found) else [one[0] for one in found if one]

    def acts_by(self, heads: Sequence[Sequence[Head]]) -> list[Act]:
        """All that these heads do."""
        return [act for acts, mine in zip(self.acts, heads, strict=True) for act in acts if act.head in mine]


def absent(photo: Photo, entry: Mapping[str, str], own: str) -> bool:
    """Whether a thing is surely not there: neither it nor anything close is said, and what must be said is."""
    said = photo.vocab & (word_set(entry.get("yes", own)) | word_set(entry.get("close", "")))
    return not said and ("only" not in entry or bool(photo.vocab & word_set(entry["only"])))


def read_shards(shards: Sequence[Path], photos: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and sidecar of every sample, in order; its photo is written to photos/KEY.jpg if it is not there."""
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
