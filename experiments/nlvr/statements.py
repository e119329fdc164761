"""Statements about two photos, true or false by their captions.

Each is drawn together with its counterpart: the same sentence with the other label, mostly about the same photos.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments.nlvr.atoms import NUMBERS, SINGULAR, THINGS, Atom, atoms
from experiments.vqa.closed_questions import COUNTED, does
from experiments.vqa.parse import CROWDS, WORDS, is_near_color
from experiments.vqa.photo import Photo, absent
from experiments.vqa.things import ASKED, has

PARTS = {"caption": 1.0, "two captions": 0.5, "atoms": 1.0, "totals": 0.6}  # draws, as a share of the photos
SHORT = 15  # words of a caption in a sentence, at most
TRIES = 60  # photos tried to find one that refutes a caption


class Row(NamedTuple):
    """Keys of the two photos, the sentence, whether it is true, and what is counted together."""

    left: str
    right: str
    sentence: str
    label: bool
    kind: str


def make(photos: Sequence[Photo], share: float, rng: random.Random) -> list[Row]:
    """All rows in random order, each once."""
    size = {part: int(n * share * len(photos)) for part, n in PARTS.items()}
    known_atoms = atoms(photos)
    rows = [
        *caption_rows(photos, size["caption"], rng),
        *two_caption_rows(photos, size["two captions"], rng),
        *atom_rows(known_atoms, size["atoms"], rng),
        *two_atom_rows(known_atoms, size["atoms"], rng),
        *total_rows(photos, size["totals"], rng),
    ]
    kept = list(dict.fromkeys(row for row in rows if row.left != row.right))
    rng.shuffle(kept)
    return kept


def both_ways(a: Photo, b: Photo, sentence: str, kind: str) -> Iterator[Row]:
    """The four rows of a sentence about the SIDE image that is true of `a` and false of `b`."""
    for left, right, side in ((a, b, "left"), (b, a, "right"), (b, a, "left"), (a, b, "right")):
        yield Row(left.key, right.key, sentence.replace("SIDE", side), (left is a) == (side == "left"), kind)


def caption_rows(photos: Sequence[Photo], draws: int, rng: random.Random) -> Iterator[Row]:
    """A caption of one photo that the other photo's captions refute, for the left and for the right image."""
    by_subject = subjects(photos)
    for photo in rng.sample(photos, min(draws, len(photos))):
        i = short_caption(photo, rng)
        other = None if i is None else refuted(photo, i, by_subject, photos, rng)
        if i is not None and other is not None:
            yield from both_ways(photo, other, placed_caption(photo.captions[i], "the SIDE image"), "caption")


def two_caption_rows(photos: Sequence[Photo], draws: int, rng: random.Random) -> Iterator[Row]:
    """A caption each of two photos; false where a third photo takes the place of the second."""
    by_subject = subjects(photos)
    for a in rng.sample(photos, min(draws, len(photos))):
        i = short_caption(a, rng)
        b = None if i is None else refuted(a, i, by_subject, photos, rng)
        j = b and short_caption(b, rng)
        if i is None or b is None or j is None:
            continue
        c = refuted(b, j, by_subject, photos, rng)
        k = c and short_caption(c, rng)
        if c is None or k is None or not (refutes(a, b, j) and refutes(a, c, k) and refutes(b, c, k)):
            continue
        for seen in (b, c):
            for said_of, index in ((b, j), (c, k)):
                sentence = one_and_other(a.captions[i], said_of.captions[index])
                pair = rng.sample([a, seen], 2)
                yield Row(pair[0].key, pair[1].key, sentence, said_of is seen, "two captions")


def subjects(photos: Sequence[Photo]) -> dict[str, list[Photo]]:
    """Photos by the most frequent animate noun of their captions."""
    by_subject: dict[str, list[Photo]] = {}
    for photo in photos:
        by_subject.setdefault(subject(photo), []).append(photo)
    return by_subject


def subject(photo: Photo) -> str:
    kinds = Counter(head.kind for heads in photo.heads for head in heads)
    return max(kinds, key=kinds.__getitem__) if kinds else ""


def short_caption(photo: Photo, rng: random.Random) -> int | None:
    """The number of one of the captions with a known subject."""
    fit = [i for i, t in enumerate(photo.tokens) if 4 < len(t) <= SHORT and photo.heads[i]]
    return rng.choice(fit) if fit else None


def refuted(
    photo: Photo, i: int, by_subject: Mapping[str, Sequence[Photo]], photos: Sequence[Photo], rng: random.Random
) -> Photo | None:
    """A photo that refutes the caption: mostly one with the same subject."""
    pool = by_subject[subject(photo)] if rng.random() < 0.7 else photos
    for other in rng.sample(pool, min(TRIES, len(pool))):
        if other is not photo and refutes(other, photo, i):
            return other
    return None


def refutes(photo: Photo, author: Photo, i: int) -> bool:
    """Whether the photo's captions surely refute caption `i` of another: a thing, number, act or colour in it."""
    heads, vocab = author.heads[i], author.vocabs[i]
    kinds = {h.kind for h in heads}
    if any(is_absent(photo, kind) for kind in kinds):
        return True
    if any(vocab & set(ASKED["things"][t].get("yes", t).split()) and is_absent(photo, t) for t in THINGS):
        return True
    for plural, kind in COUNTED.items():
        mine = [h for h in heads if h.kind in kind]
        n, m = photo.count(kind), None if any(h.number is None for h in mine) else sum(h.number or 0 for h in mine)
        if plural in ("dogs", "people") and mine and n and m and n != m and not vocab & CROWDS:
            return True
    for act in author.acts[i]:
        known = act.verb in ASKED["acts"] and act.head.kind in photo.ones and not act.head.plural
        if known and does(photo, act.head.kind, act.verb, ASKED["acts"][act.verb]) is False:
            return True
    return any(other_color(photo, c.noun, c.colors, c.owner.kind if c.owner else "") for c in author.colors[i])


def is_absent(photo: Photo, name: str) -> bool:
    for table in ("people", "things"):
        if name in ASKED[table]:
            return has(photo, name, ASKED[table][name]) is False
    return False


def other_color(photo: Photo, noun: str, colors: Sequence[str], owner: str) -> bool:
    """Whether the captions give the same noun other colours, none similar."""
    known = photo.colors_of(noun) if noun in WORDS["animals"] else photo.colors_worn(owner, noun)
    return bool(known) and not any(is_near_color(color, other) for color in colors for other in known)


def clean(caption: str) -> str:
    text = re.sub(r"\s+([.,!])", r"\1", caption.strip()).rstrip(" .!,")
    first = text.split(" ")[0]
    return first.lower() + text[len(first) :]


def placed_caption(caption: str, where: str) -> str:
    """The caption with its image: "shows" for a noun with participles, else "in"."""
    text = clean(caption)
    shown = re.sub(r"^((?:\w+ ){1,5})(?:is|are) (\w+ing)\b", r"\1\2", text)
    if shown != text or re.match(r"(?:\w+ ){1,4}\w+ing\b", text):
        return f"{where[0].upper()}{where[1:]} shows {shown}."
    return f"In {where}, {text}."


def one_and_other(a: str, b: str) -> str:
    return f"In one image, {clean(a)}, and in the other, {clean(b)}."


def draw_atoms(known_atoms: Sequence[Atom], draws: int, rng: random.Random) -> Iterator[Atom]:
    """Draw atoms, frequent ones more often."""
    weights = [min(len(a.true), len(a.false)) ** 0.7 for a in known_atoms]
    yield from rng.choices(known_atoms, weights, k=draws)


def atom_rows(known_atoms: Sequence[Atom], draws: int, rng: random.Random) -> Iterator[Row]:
    """One atom: on one side, in both, in neither, in exactly one, in any."""
    for atom in draw_atoms(known_atoms, draws, rng):
        (a, a2), (b, b2), x = rng.sample(atom.true, 2), rng.sample(atom.false, 2), atom.phrase
        same = (a, a2) if rng.random() < 0.5 else (b, b2)
        way = rng.randrange(3)
        if way == 0:
            yield from both_ways(a, b, f"The SIDE image shows {x}.", "one side")
            continue
        exists = not x.startswith("exactly")
        both = rng.choice(
            [f"Both images show {x}.", f"Each image shows {x}.", f"There is {x} in both images."][: 2 + exists]
        )
        neither = rng.choice([f"Neither image shows {x}.", f"There is not {x} in either image."][: 1 + exists])
        exactly = rng.choice([f"Only one of the images shows {x}.", f"Exactly one image shows {x}."][: 1 + exists])
        any_image = rng.choice([f"At least one image shows {x}.", f"There is {x} in at least one image."][: 1 + exists])
        given = (
            ((both, "both", (a, a2), (a, b)), (neither, "neither", (b, b2), (a2, b2)))
            if way == 1
            else ((exactly, "exactly one", (a, b), same), (any_image, "any", (a2, b2), (b, b2)))
        )
        for sentence, kind, yes, no in given:
            for pair, label in ((yes, True), (no, False)):
                left, right = rng.sample(pair, 2)
                yield Row(left.key, right.key, sentence, label, kind)


def two_atom_rows(known_atoms: Sequence[Atom], draws: int, rng: random.Random) -> Iterator[Row]:
    """Two atoms of one group, in one image each; false with the sides exchanged or one image replaced."""
    groups: dict[str, list[Atom]] = {}
    for atom in known_atoms:
        groups.setdefault(atom.group, []).append(atom)
    false = {atom.phrase: {p.key for p in atom.false} for atom in known_atoms}
    for x in draw_atoms(known_atoms, draws, rng):
        y = rng.choice(groups[x.group])
        firsts = [p for p in x.true if p.key in false[y.phrase]]
        if y is x or not firsts:
            continue
        a, b = rng.choice(firsts), rng.choice(y.true)
        if rng.random() < 0.5:
            sentence = f"The left image shows {x.phrase} and the right image shows {y.phrase}."
            yield Row(a.key, b.key, sentence, True, "left and right")
            yield Row(b.key, a.key, sentence, False, "left and right")
            continue
        sentence = f"One image shows {x.phrase} and the other image shows {y.phrase}."
        c = rng.choice(firsts if rng.random() < 0.6 else y.false)
        if a is c:
            continue
        for pair, label in (((a, b), True), ((a, c), False)):
            left, right = rng.sample(pair, 2)
            yield Row(left.key, right.key, sentence, label, "one and other")


def total_rows(photos: Sequence[Photo], draws: int, rng: random.Random) -> Iterator[Row]:
    """Sums and comparisons of numbers; none are counted where there surely are none."""
    for plural in ("dogs", "people", "men", "women", "boys", "girls", "children"):
        kind = SINGULAR.get(plural, plural[:-1])
        table = ASKED["things"] if kind == "dog" else ASKED["people"]
        by_number: dict[int, list[Photo]] = {}
        for photo in photos:
            n = 0 if absent(photo, {"yes": kind, **table[kind]}, kind) else photo.count(COUNTED[plural])
            if n is not None and n < 5:
                by_number.setdefault(n, []).append(photo)
        numbers = [n for n, group in by_number.items() if len(group) >= 4]
        part = 3 if plural in ("dogs", "people") else 1
        for _ in range(draws * part // 11 if len(numbers) > 1 else 0):
            yield from _totals(plural, {n: by_number[n] for n in numbers}, rng)


def _totals(plural: str, by_number: Mapping[int, Sequence[Photo]], rng: random.Random) -> Iterator[Row]:
    n, m = rng.choices(list(by_number), k=2)
    other = rng.choice([k for k in by_number if k != m])
    a, b, c = (rng.choice(by_number[k]) for k in (n, m, other))
    if a is b or a is c:
        return
    for first, second, last in ((m, b, c), (other, c, b)):
        total = n + first
        if total in NUMBERS and total:
            name = SINGULAR.get(plural, plural[:-1]) if total == 1 else plural
            be = "is" if total == 1 else "are"
            sentence = f"There {be} {NUMBERS[total]} {name} in total."
            for right, label in ((second, True), (last, False)):
                pair = rng.sample([a, right], 2)
                yield Row(pair[0].key, pair[1].key, sentence, label, "total")
    if n != m:
        more, fewer = (a, b) if n > m else (b, a)
        for word, left, right in (("more", more, fewer), ("fewer", fewer, more)):
            sentence = f"There are {word} {plural} in the left image than in the right image."
            yield Row(left.key, right.key, sentence, True, "compare")
            yield Row(right.key, left.key, sentence, False, "compare")
