"""Questions that a photo's captions answer: colours, numbers, what, who, where. Answers are counted by caption."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments.vqa.closed_questions import COUNTED, SILENT, be
from experiments.vqa.parse import (
    GARMENTS,
    HUMANS,
    THINGS,
    WORDS,
    Act,
    Head,
    colors_agree,
    gerund,
    noun_phrase,
    word_set,
)
from experiments.vqa.photo import PLACES, Photo
from experiments.vqa.things import ASKED, has

SPORTS = {name: word_set(words) for name, words in WORDS["sports"].items()}
SCENES = [place for place in PLACES if place not in word_set("bench couch bed boat swing stairs rock court stage")]
GROUNDS = {
    "snow": "snow snowy",
    "grass": "grass grassy lawn",
    "sand": "sand sandy",
    "dirt": "dirt",
    "water": "water ocean",
    "rocks": "rocky rocks",
    "leaves": "leaves",
    "carpet": "carpet",
}
HEADGEAR = word_set("hat helmet cap headband bandanna hood beanie goggles crown wig")
VAGUE = {*WORDS["verbs"]["vague"].split()}
RIDING = {
    "bike": "riding bike",
    "horse": "riding horse",
    "motorcycle": "riding motorcycle",
    "wave": "surfing",
    "skateboard": "skateboarding",
    "surfboard": "surfing",
    "snowboard": "snowboarding",
}
PLURALS = WORDS["colors"]["plural"].split()


class Question(NamedTuple):
    """A question with its texts, and its answers with the number of captions for each; `form` groups the counts."""

    kind: str
    form: str
    answers: Mapping[str, int]
    texts: Sequence[str]


def open_questions(photo: Photo) -> Iterator[Question]:
    """All questions that the captions answer."""
    yield from color_questions(photo)
    yield from count_questions(photo)
    for who, heads in [*photo.ones.items(), *photo.groups.items()]:
        yield from subject_questions(photo, who, heads)
    yield from photo_questions(photo)


def color_questions(photo: Photo) -> Iterator[Question]:
    """Colours of things and clothes if the captions agree."""
    candidates: list[tuple[str, list[tuple[str, ...]], list[str]]] = []
    for thing in ("dog", "cat", *THINGS):
        verb = "are" if thing in PLURALS else "is"
        name = thing + "s" if thing == "flower" else thing
        texts = [f"what color {verb} the {name}?", f"what is the color of the {name}?"]
        candidates.append((thing, photo.colors_of(thing), texts))
    for who in (*HUMANS, "dog"):
        for garment in GARMENTS:
            verb = "are" if garment in PLURALS else "is"
            texts = [f"what color {verb} the {who}'s {garment}?"]
            texts += [f"what color {garment} is the {who} wearing?"] if garment not in ("hair", "beard") else []
            texts += [f"what color {verb} the {garment}?"] if photo.lone_human and who != "dog" else []
            candidates.append((garment, photo.colors_worn(who, garment), texts))
    for name, colors, texts in candidates:
        if colors and colors_agree(colors):
            yield Question("color", f"color:{name}", Counter(" and ".join(c) for c in colors), texts)


def count_questions(photo: Photo) -> Iterator[Question]:
    """Counts of each kind; zero only for people."""
    for plural, kinds in COUNTED.items():
        n = photo.count(kinds)
        none = plural == "people" and len(photo.captions) > 2
        n = 0 if none and has(photo, "person", ASKED["people"]["person"]) is False else n
        if n is not None and n < 9:
            ways = ("are there", "are in the picture", "do you see", "are in the photo", "are shown")
            yield Question("count", f"how many {n}", {str(n): 1}, [f"how many {plural} {way}?" for way in ways])


def subject_questions(photo: Photo, who: str, heads: Sequence[Sequence[Head]]) -> Iterator[Question]:
    """Acts of a person, animal or group, with object, place and clothes."""
    acts = photo.acts_by(heads)
    yield Question("what", "doing", doing(acts), [f"what {be(who)} the {who} doing?"])
    for (verb, preposition), nouns in objects(acts).items():
        text = f"what {be(who)} the {who} {gerund(verb)} {preposition.replace('_', ' ')}".rstrip()
        yield Question("what", f"object:{verb} {preposition}", nouns, [f"{text}?"])
    yield Question("what", "where", where(acts), [f"where {be(who)} the {who}?"])
    if who in HUMANS:
        worn = wearing(photo, heads)
        yield Question("what", "wearing", worn, [f"what is the {who} wearing?"])
        on_head = Counter({w: n for w, n in worn.items() if w in HEADGEAR})
        yield Question(
            "what", "on head", on_head, [f"what is on the {who}'s head?", f"what is the {who} wearing on the head?"]
        )
    if who in HUMANS and photo.lone_human:
        kinds = Counter(h.kind for mine in heads for h in mine if h.kind != "person")
        yield Question("what", "who", kinds, ["who is in the picture?", "who is this?"])
        doings = sorted({a.verb for a in acts} - VAGUE - {"wear", "take picture"})
        yield from (
            Question("what", "who does", kinds, [f"who is {gerund(verb)}?"])
            for verb in doings[:1]
            if verb not in SILENT
        )
    if who == "dog" and not photo.lone_human:
        doings = sorted({a.verb for a in acts} - VAGUE - {"wear", "take picture"})
        yield from (
            Question("what", "who does", {"dog": 1}, [f"who is {gerund(verb)}?"])
            for verb in doings[:1]
            if verb not in SILENT
        )
    if who == "dog":
        in_mouth = Counter(n for tokens in photo.tokens for n in mouthful(tokens))
        yield Question(
            "what", "in mouth", in_mouth, ["what is in the dog's mouth?", "what is the dog holding in its mouth?"]
        )


def photo_questions(photo: Photo) -> Iterator[Question]:
    """Place, ground, animal, sport, background."""
    texts = ["where is this?", "where was this photo taken?", "what place is this?"]
    yield Question("what", "place", scene(photo), texts)
    grounds = {name: photo.mentions(word_set(words)) for name, words in GROUNDS.items()}
    grounds = {name: n for name, n in grounds.items() if n}
    if len(grounds) == 1 and "water" not in grounds:
        yield Question("what", "ground", grounds, ["what is on the ground?", "what is the ground covered with?"])
    animals = Counter(h.kind for heads in photo.heads for h in heads if h.kind in WORDS["animals"])
    if len(animals) == 1 and max(animals.values()) > 2:
        texts = ["what animal is this?", "what animal is in the picture?", "what kind of animal is this?"]
        yield Question("what", f"animal:{next(iter(animals))}", animals, texts)
    sports = Counter({name: photo.mentions(words) for name, words in SPORTS.items() if photo.mentions(words)})
    if len(sports) == 1 and any(h.kind in HUMANS for heads in photo.heads for h in heads):
        texts = ["what sport is this?", "what sport is being played?", "what sport is it?"]
        yield Question("what", "sport", sports, texts)
    yield Question("what", "background", background(photo), ["what is in the background?", "what is behind them?"])


def doing(acts: Sequence[Act]) -> Counter[str]:
    """Short names of what the acts are."""
    counts: Counter[str] = Counter()
    for act in acts:
        if act.verb == "ride" and act.noun in RIDING:
            counts[RIDING[act.noun]] += 1
        elif act.verb == "play" and act.noun and act.preposition == "":
            counts[f"playing {act.noun}"] += 1
        elif act.verb == "take picture":
            counts["taking picture"] += 1
        elif act.verb not in SILENT | VAGUE | {"look"}:
            counts[gerund(act.verb)] += 1
    return counts


def objects(acts: Sequence[Act]) -> dict[tuple[str, str], Counter[str]]:
    """Nouns by verb and preposition."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for act in acts:
        if act.noun and act.verb not in VAGUE | {"wear"}:
            counts[act.verb, act.preposition][act.noun] += 1
    return counts


def where(acts: Sequence[Act]) -> Counter[str]:
    """Places after a preposition."""
    near = [a.noun for a in acts if a.preposition in ("in", "on", "through", "at", "across", "along", "near", "down")]
    return Counter(place for noun in near for place, words in PLACES.items() if noun == place or noun in words)


def mouthful(tokens: Sequence[str]) -> Iterator[str]:
    """The noun before in its mouth."""
    for i, word in enumerate(tokens):
        if word in ("mouth", "mouths", "teeth") and i > 2 and tokens[i - 2] == "in":
            starts = [k for k in range(i - 2) if tokens[k] in ("a", "an", "the", "its", "his", "with", "some")]
            name, end = noun_phrase(tokens, starts[-1]) if starts else (None, 0)
            if name and end == i - 2:
                yield name


def wearing(photo: Photo, heads: Sequence[Sequence[Head]]) -> Counter[str]:
    """Garments after wearing or in."""
    counts = Counter(a.noun for a in photo.acts_by(heads) if a.verb == "wear" and a.noun in GARMENTS)
    for tokens, mine in zip(photo.tokens, heads, strict=True):
        for head in mine:
            if tokens[head.at + 1 : head.at + 2] == ["in"]:
                counts[noun_phrase(tokens, head.at + 2)[0]] += 1
    return Counter({noun: n for noun, n in counts.items() if noun in GARMENTS and noun is not None})


def scene(photo: Photo) -> Counter[str]:
    """Places named (water only if there is no other); none if only one caption names one."""
    counts = Counter(place for vocab in photo.vocabs for place in SCENES if vocab & PLACES[place])
    if len(counts) > 1:
        del counts["water"]
    return counts if counts and max(counts.values()) > 1 else Counter()


def background(photo: Photo) -> Counter[str]:
    """The noun before in the background."""
    counts: Counter[str] = Counter()
    for tokens in photo.tokens:
        if " ".join(tokens).endswith("in the background"):
            start = max((i + 1 for i, t in enumerate(tokens[:-3]) if t in ("with", "and", ",", "while")), default=0)
            name = noun_phrase(tokens, start)[0]
            counts.update([name] if start and name else [])
    return counts
