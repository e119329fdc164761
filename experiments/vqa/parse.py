"""Reads a caption by rules: animate nouns and how many, what they do, coloured things.

Made for English captions of people, animals, sport and everyday scenes; its words are in `words.toml`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

WORDS = tomllib.loads((Path(__file__).parent / "words.toml").read_text())
PHRASES = [
    (r"\b(t|tee) ?-? ?shirt", "shirt"),
    (r"\bin front of\b", "in_front_of"),
    (r"\b(next|close) to\b", "next_to"),
    (r"\b(on|on the) top of\b|\batop\b", "on_top_of"),
    (r"\bin the middle of\b", "in"),
    (r"\btank top", "top"),
    (r"\b(bathing|swim|swimming) suit", "swimsuit"),
    (r"\b(life|safety) (jacket|vest)", "lifejacket"),
    (r"\b(swim|swimming) trunks", "trunks"),
    (r"\bdirt ?bik(e|er)", r"dirtbik\1"),
    (r"\bmotor bike", "motorbike"),
    (r"\boff of\b", "off"),
    (r"\bout of\b", "from"),
    (r"\binside( of)?\b", "in"),
    (r"\bice cream", "icecream"),
    (r"\b(baseball|soccer|football) (cap|hat|uniform|jersey|helmet)", r"\2"),
    (r"\bunderneath\b", "under"),
    (r"\bonto\b|\bupon\b", "on"),
    (r"\btowards\b", "toward"),
    (r"\bbeside\b", "next_to"),
    (r"\bcell phone", "phone"),
    (r"\b(light|dark|bright|brightly|multi)[ -]+(?=colou?red|[a-z]+)", ""),
    (r"\bmales\b", "men"),
    (r"\bfemales\b", "women"),
    (r"-", " "),
]
COMPOUNDS = re.compile(r"\b(" + "|".join(WORDS["compounds"]["words"].split()).replace("_", " ") + r")(s?)\b")
NUMBERS: dict[str, int] = WORDS["numbers"]
GRAMMAR = {name: set(words.split()) for name, words in WORDS["grammar"].items()}
DETERMINERS, CONJUNCTIONS, ADVERBS = GRAMMAR["determiners"], GRAMMAR["conjunctions"], GRAMMAR["adverbs"]
PREPOSITIONS, NOUN_VERBS = GRAMMAR["prepositions"], GRAMMAR["noun_verbs"]
COLORS = set(WORDS["colors"]["words"].split())
SAME_COLOR: dict[str, str] = WORDS["colors"]["same"]
CLOSE_COLORS = [set(group.split()) for group in WORDS["colors"]["close"]]
CROWDS, UNCOUNTED = (set(WORDS["crowds"][name].split()) for name in ("words", "uncounted"))
NOT_AFTER, NOT_BEFORE = (set(WORDS["not_animate"][side].split()) for side in ("after", "before"))
HUMANS = tuple(WORDS["people"])
NOT_THING_AFTER = set(WORDS["not_things"]["after"].split())
KEEP_S = set(WORDS["nouns"].keys()) | set(WORDS["not_answers"]["keep_s"].split())
PARTICIPLE = re.compile(
    r"(?<!^b)(?<!^sl)(?<!^sh)(?<!^we)ed$|ing$(?<!^swing)(?<!^building)(?<!^ring)(?<!^string)(?<!^wing)"
)


class Head(NamedTuple):
    """An animate noun of a caption: where, what, how many (None: several or unknown), and whether it is plural."""

    at: int
    kind: str
    number: int | None
    plural: bool


class Act(NamedTuple):
    """Act of a subject: its head, the verb's base form, and preposition ("" for none) and noun that follow."""

    head: Head
    verb: str
    preposition: str
    noun: str | None


class Color(NamedTuple):
    """A coloured thing: colours in alphabetical order, the noun, and the animate noun before it, if any."""

    colors: tuple[str, ...]
    noun: str
    owner: Head | None


def _animate() -> dict[str, tuple[str, bool]]:
    table: dict[str, tuple[str, bool]] = {}
    for kind, words in {**WORDS["people"], **WORDS["animals"]}.items():
        for word in words.split():
            plural = (
                word[:-1] + "ies"
                if re.search("[^aeiou]y$", word)
                else word + ("es" if word.endswith(("ch", "x")) else "s")
            )
            table |= {plural: (kind, True), word: (kind, False)}
    irregular = {word: (kind, True) for kind, words in WORDS["plurals"].items() for word in words.split()}
    return table | irregular | {"sheep": ("sheep", False), "couple": ("person", True)}


def gerund(verb: str) -> str:
    """running of run."""
    if verb == "lie":
        return "lying"
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    double = len(verb) <= 4 and re.fullmatch(r"[a-z]*[^aeiou][aeiou][bdgmnpt]", verb)
    return verb + (verb[-1] if double else "") + "ing"


def _forms() -> dict[str, tuple[str, str]]:
    same: dict[str, str] = WORDS["verbs"]["same"]
    table = {}
    for verb in WORDS["verbs"]["regular"].split():
        base = same.get(verb, verb)
        s = verb + ("es" if verb.endswith(("ch", "sh", "ss", "x", "do", "go")) else "s")
        table |= {verb: (base, "base"), s: (base, "s"), gerund(verb): (base, "ing"), verb + "ing": (base, "ing")}
    for pair in WORDS["verbs"]["irregular"].split():
        verb, form = pair.split(":")
        table[form] = (same.get(verb, verb), "ing" if form.endswith("ing") else "s")
    return table | {"wearing": ("wear", "ing"), "wears": ("wear", "s"), "wear": ("wear", "base")}


ANIMATE, FORMS = _animate(), _forms()
VAGUE, TRANSITIVE = (set(WORDS["verbs"][name].split()) for name in ("vague", "transitive"))
NOUNS_AFTER, NOT_ANSWERS = set(WORDS["verbs"]["nouns_after"].split()), set(WORDS["not_answers"]["words"].split())
GARMENTS, THINGS = (WORDS["colors"][name].split() for name in ("garments", "things"))


def tokens_of(caption: str) -> list[str]:
    """Lower-case words and commas, with some phrases made one word."""
    text = caption.lower()
    for pattern, word in PHRASES:
        text = re.sub(pattern, word, text)
    text = COMPOUNDS.sub(lambda match: match[0].replace(" ", "_"), text)
    return re.findall(r"[a-z_]+|'s|,|\d+", text)


def noun(word: str) -> str:
    """One name for a noun's forms and near synonyms."""
    if word.endswith("s") and not word.endswith("ss") and word not in KEEP_S:
        word = word[:-1]
    return str(WORDS["nouns"].get(word, ANIMATE[word][0] if word in ANIMATE and word not in ("baby",) else word))


def _is_verb(tokens: Sequence[str], i: int, plural: bool) -> bool:
    form = FORMS.get(tokens[i], ("", ""))[1]
    before, after = tokens[i - 1] if i else "", tokens[i + 1] if i + 1 < len(tokens) else ""
    if not form or before in DETERMINERS | PREPOSITIONS | COLORS or before in NUMBERS:
        return False
    if form == "ing":
        return after not in NOUNS_AFTER
    return form == ("base" if plural else "s") and FORMS.get(before, ("", ""))[1] != "ing"


def noun_phrase(tokens: Sequence[str], start: int) -> tuple[str | None, int]:
    """The head noun of the phrase that starts there (None: none to answer with), and where the phrase ends."""
    words: list[str] = []
    i = start
    while i < len(tokens) and len(words) < 6:
        word = tokens[i]
        if (word == "of" and words and words[-1] in GRAMMAR["containers"]) or word == "'s":
            words = []
        elif word in COLORS and i + 2 < len(tokens) and tokens[i + 1] in ("and", ",") and tokens[i + 2] in COLORS:
            i += 1
        elif word in CONJUNCTIONS | PREPOSITIONS | ADVERBS or (words and _ends_phrase(tokens, i)):
            break
        elif word not in DETERMINERS:
            words.append(word)
        i += 1
    head = noun(words[-1]) if words else ""
    unfit = head in NOT_ANSWERS | COLORS or PARTICIPLE.search(head) or (head in FORMS and head not in NOUN_VERBS)
    return (head if head and not unfit else None), i


def _ends_phrase(tokens: Sequence[str], i: int) -> bool:
    s_form = FORMS.get(tokens[i], ("", ""))[1] == "s"
    return _is_verb(tokens, i, False) or (s_form and tokens[i - 1] in ANIMATE)


def heads_of(tokens: Sequence[str]) -> list[Head]:
    """The animate nouns of a caption."""
    heads: list[Head] = []
    for i, word in enumerate(tokens):
        after, before = tokens[i + 1] if i + 1 < len(tokens) else "", tokens[i - 1] if i else ""
        if word not in ANIMATE or after in NOT_AFTER or before in NOT_BEFORE or (word == "couple" and after == "of"):
            continue
        kind, plural = ANIMATE[word]
        if after in ANIMATE and ANIMATE[after][0] in HUMANS and kind in HUMANS:
            continue  # baby girl, woman dancer: the next noun counts
        if kind in ("person", "child") and before in ("male", "female", *ANIMATE):
            named = {"male": "man", "female": "woman"}.get(before) or ANIMATE[before][0]
            kind = named if kind == "person" and named in HUMANS else kind
        again = kind in [h.kind for h in heads]
        heads.append(Head(i, kind, number_of(tokens[max(0, i - 5) : i], word, plural, again), plural))
    return heads


def number_of(before: Sequence[str], word: str, plural: bool, again: bool) -> int | None:
    """Number that a noun means, by the words before it; None if several or unknown, 0 if it was named before."""
    for w in reversed(before):
        if w in NUMBERS:
            return NUMBERS[w]
        if w in ("couple", "pair"):
            return 2
        if w in CROWDS or w in ("several", "many", "some", "few", "herd", "flock", "row", "lots"):
            return None
        if w in ("the", "his", "her", "their") and again and not plural:
            return 0  # named before
        if w in CONJUNCTIONS - {","} or w in PREPOSITIONS - {"of"} or w in ANIMATE or w in FORMS:
            break
    if word == "sheep" and not {"a", "one", "lone", "single"} & set(before):
        return None
    return 2 if word == "couple" else None if plural else 1


def acts_of(tokens: Sequence[str], heads: Sequence[Head]) -> list[Act]:
    """Acts of the subjects of a caption: the first verb after each and those joined to it."""
    acts: list[Act] = []
    at = {h.at: h for h in heads}
    for head in heads:
        before = _before_phrase(tokens, head.at)
        near = before in PREPOSITIONS or before in FORMS  # an object: believe only a verb that is next to it
        mine: list[Act] = []
        for i in range(head.at + 1, min(len(tokens), head.at + (2 if near else 25))):
            subject = (
                i in at and _before_phrase(tokens, i) not in PREPOSITIONS and _before_phrase(tokens, i) not in FORMS
            )
            if subject or (i in at and mine) or tokens[i] == "'s" or _starts_clause(tokens, i):
                break
            joined = tokens[i - 1] in ("and", ",", "while") or (mine and mine[-1].verb in ("wear", "hold", "carry"))
            if _is_verb(tokens, i, head.plural) and (joined or not mine):
                mine.append(_act(tokens, head, i))
        acts += mine
    return acts


def _starts_clause(tokens: Sequence[str], i: int) -> bool:
    after = FORMS.get("".join(tokens[i + 1 : i + 2]), ("", ""))[1]
    return tokens[i] in ("as", "where", "when", "whilst") or (tokens[i] == "while" and after != "ing")


def _before_phrase(tokens: Sequence[str], i: int) -> str:
    while i > 0:
        i -= 1
        if (tokens[i] in PREPOSITIONS and tokens[i] != "of") or tokens[i] in CONJUNCTIONS:
            return tokens[i]
        if FORMS.get(tokens[i], ("", ""))[1] in ("ing", "s") and _is_verb(tokens, i, False):
            return tokens[i]
    return ""


def _act(tokens: Sequence[str], head: Head, i: int) -> Act:
    verb, k = FORMS[tokens[i]][0], i + 1
    if verb in VAGUE and "to" in tokens[k : k + 1] and FORMS.get("".join(tokens[k + 1 : k + 2]), ("", ""))[1] == "base":
        verb, k = FORMS[tokens[k + 1]][0], k + 2
    if verb == "take" and set(tokens[k : k + 4]) & {"picture", "pictures", "photo", "photograph", "photos"}:
        return Act(head, "take picture", "", None)
    while k < len(tokens) and (
        tokens[k] in ADVERBS or (tokens[k] in PREPOSITIONS and _in(tokens, k + 1, PREPOSITIONS))
    ):
        k += 1
    if _in(tokens, k, PREPOSITIONS):
        return Act(head, verb, tokens[k], noun_phrase(tokens, k + 1)[0])
    return Act(head, verb, "", noun_phrase(tokens, k)[0] if verb in TRANSITIVE else None)


def _in(tokens: Sequence[str], i: int, words: set[str]) -> bool:
    return i < len(tokens) and tokens[i] in words


def colors_of(tokens: Sequence[str], heads: Sequence[Head]) -> list[Color]:
    """The coloured things of a caption; three colours and more are left out."""
    results: list[Color] = []
    i = 0
    while i < len(tokens):
        if tokens[i] not in COLORS:
            i += 1
            continue
        colors = []
        while i < len(tokens) and (tokens[i] in COLORS or (tokens[i] in ("and", ",") and _in(tokens, i + 1, COLORS))):
            colors += [SAME_COLOR.get(tokens[i], tokens[i])] if tokens[i] in COLORS else []
            i += 1
        name = "hair" if _in(tokens, i, {"haired"}) else noun_phrase(tokens, i)[0]
        owner = next((h for h in reversed(heads) if h.at < i), None)
        if name == "hair" and _in(tokens, i, {"haired"}):
            owner = next((h for h in heads if h.at > i), None)
        if name and len(set(colors)) < 3:
            results.append(Color(tuple(sorted(set(colors))), name, owner))
    return results


def colors_agree(colors: Sequence[tuple[str, ...]]) -> bool:
    """Whether any two of the colour sets share a colour or have close ones."""
    pairs = ((set(a), set(b)) for a in colors for b in colors)
    return all(a & b or any(a & close and b & close for close in CLOSE_COLORS) for a, b in pairs)


def is_near_color(color: str, colors: Iterable[str]) -> bool:
    """Whether a person could name one of the colours so."""
    return any(c == color or any({c, color} <= close for close in CLOSE_COLORS) for c in colors)


@cache
def word_set(text: str) -> frozenset[str]:
    """The words of a text of `words.toml`."""
    return frozenset(text.split())
