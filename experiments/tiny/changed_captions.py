"""True captions made false by one change: an object, an attribute, a number, a relation, or the order of words.

A matching head that has seen only captions of other images judges by topic; these differ from the truth in one word.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

WORDS = Path(__file__).parent / "changed_words.toml"
ORDER = "order"  # kind of change that swaps two words of the caption


@dataclass(frozen=True)
class ChangedCaption:
    """A false caption, and the kind of its change (a section of changed_words.toml, or "order")."""

    kind: str
    text: str


@dataclass(frozen=True)
class Occurrence:
    """Words of a group in a caption: characters [start, end)."""

    kind: str
    group: str
    start: int
    end: int


@cache
def word_groups() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return word groups by kind of change and name."""
    groups: Mapping[str, Mapping[str, Sequence[str]]] = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    return groups


@cache
def _pattern() -> tuple[re.Pattern[str], Mapping[str, Sequence[tuple[str, str]]]]:
    """Return a pattern of all words, longest first, and the (kind, group) pairs that contain each word."""
    groups_of: dict[str, list[tuple[str, str]]] = {}
    for kind, groups in word_groups().items():
        for group, words in groups.items():
            for word in words:
                groups_of.setdefault(word, []).append((kind, group))
    words = sorted(groups_of, key=lambda word: (-len(word), word))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b"), groups_of


def find_words(caption: str) -> list[Occurrence]:
    """Find the words of a lower-case caption that can be changed; a word of several groups occurs once per group."""
    pattern, groups_of = _pattern()
    return [
        Occurrence(kind, group, match.start(), match.end())
        for match in pattern.finditer(caption)
        for kind, group in groups_of[match.group()]
    ]


def change_caption(
    caption: str, rng: Random, kinds: Sequence[str] | None = None, others: Sequence[str] = ()
) -> ChangedCaption | None:
    """Make a lower-case caption false by one change drawn with `rng`; None if no change applies.

    kinds: allowed kinds, all equally likely if they apply. others: further true captions of the image, whose words
    are not used as replacements.
    """
    changes = {kind: options for kind, options in _changes(caption, others).items() if kinds is None or kind in kinds}
    if not changes:
        return None
    kind = rng.choice(sorted(changes))
    start, end, replacement = rng.choice(changes[kind])
    return ChangedCaption(kind, _fix_articles(caption[:start] + replacement + caption[end:]))


def _changes(caption: str, others: Sequence[str]) -> dict[str, list[tuple[int, int, str]]]:
    """Return all changes by kind: characters [start, end) and their replacement."""
    occurrences = find_words(caption)
    pattern, _ = _pattern()
    present = set(pattern.findall(" . ".join([caption, *others])))
    changes: dict[str, list[tuple[int, int, str]]] = {}
    for word in occurrences:
        for replacement in word_groups()[word.kind][word.group]:
            if replacement not in present:
                changes.setdefault(word.kind, []).append((word.start, word.end, replacement))
    for i, first in enumerate(occurrences):
        for second in occurrences[i + 1 :]:
            words = caption[first.start : first.end], caption[second.start : second.end]
            swappable = first.kind == second.kind and first.kind in ("object", "attribute") and words[0] != words[1]
            between = caption[first.end : second.start]
            joined = re.fullmatch(r"(,| and| or| with| a| an| the| )*", between)  # "a cat and a dog" stays true
            if swappable and first.end < second.start and not joined:
                changes.setdefault(ORDER, []).append((first.start, second.end, words[1] + between + words[0]))
    return changes


def _fix_articles(caption: str) -> str:
    """Use "an" before vowels and "a" before consonants."""
    return re.sub(r"\ban? (?=\w)(?!an? )", lambda match: _article(caption[match.end() :]), caption)


def _article(following: str) -> str:
    return "an " if re.match(r"[aei]|o(?!ne\b)|u[mnp](?!i)", following) else "a "
