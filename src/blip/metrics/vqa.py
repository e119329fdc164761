"""VQA accuracy as the official tool counts it (visualqa.org, PythonEvaluationTools vqaEval.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from blip_lite.errors import UsageError

AGREEMENT = 3  # as many people as make an answer wholly right

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_GROUPS = re.compile(r"\d,\d")
_DOT = re.compile(r"\.(?!\d)")
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _lacking_one(word: str) -> list[str]:
    """The word without one of its apostrophes, in each way."""
    return [word[:i] + word[i + 1 :] for i, sign in enumerate(word) if sign == "'"]


_MENDED = {lacking: word for word in _CONTRACTIONS.split() for lacking in _lacking_one(word)}
_MENDED["somebody'd"] = "somebodyd"  # the wrong way round in the tool


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, numbers up to ten as digits, apostrophes put back."""
    words = [_DIGITS.get(word, word) for word in _without_punctuation(_plain(text)).lower().split()]
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A sign goes where it stands beside a space somewhere, or with "1,000" in the text; else it becomes a space."""
    grouped = _DIGIT_GROUPS.search(text) is not None
    found = text
    for sign in _PUNCTUATION:
        beside = f"{sign} " in text or f" {sign}" in text
        found = found.replace(sign, "" if beside or grouped else " ")
    return _DOT.sub("", found, count=32)  # the tool passes the value of a flag as the count


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the people of min(1, matches among the others / 3), 0 to 1.

    Where all people gave the very same answer, nothing is normalized and the prediction must equal it to the letter.
    The rule is made for ten people. With one there is no other to agree with, so the prediction has to be that answer,
    both normalized: 1 or 0. Raises UsageError without answers.
    """
    if not answers:
        raise UsageError("VQA accuracy needs people's answers; this question has none")
    if len(answers) == 1:
        return float(normalize_answer(prediction) == normalize_answer(answers[0]))
    mine, given = _plain(prediction), [_plain(answer) for answer in answers]
    if len(set(given)) > 1:
        mine, given = normalize_answer(mine), [normalize_answer(answer) for answer in given]
    same = given.count(mine)
    # people who gave the answer have one match less among the others
    total = (len(given) - same) * min(1.0, same / AGREEMENT) + same * min(1.0, (same - 1) / AGREEMENT)
    return total / len(given)
