"""VQA accuracy by the rules of the official tool (visualqa.org, PythonEvaluationTools vqaEval.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from blip.metrics.arguments import require_text, text_list
from blip_lite.errors import UsageError

AGREEMENT = 3  # people who must give an answer for full accuracy

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_GROUPS = re.compile(r"\d,\d")
_DOT = re.compile(r"\.(?!\d)")
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS += "somebody'd've somebody'll somebody's"  # words: allow


def _without_an_apostrophe(word: str) -> list[str]:
    """Return all variants of the word that lack one apostrophe."""
    return [word[:i] + word[i + 1 :] for i, sign in enumerate(word) if sign == "'"]


_CORRECTED = {variant: word for word in _CONTRACTIONS.split() for variant in _without_an_apostrophe(word)}
_CORRECTED["somebody'd"] = "somebodyd"  # as in the tool, which has it the wrong way round  # words: allow


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalize_answer(text: str) -> str:
    """Return lower case without punctuation and articles, numbers up to ten as digits, apostrophes restored."""
    return _normalize(require_text(text, "answer"))


@lru_cache(maxsize=1 << 16)
def _normalize(text: str) -> str:
    words = [_DIGITS.get(word, word) for word in _without_punctuation(_plain(text)).lower().split()]
    return " ".join(_CORRECTED.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """Remove signs that are next to a space somewhere, or all of them with "1,000" in the text; else insert a space."""
    grouped = _DIGIT_GROUPS.search(text) is not None
    result = text
    for sign in _PUNCTUATION:
        beside = f"{sign} " in text or f" {sign}" in text
        result = result.replace(sign, "" if beside or grouped else " ")
    return _DOT.sub("", result, count=32)  # the tool passes the value of a flag as the count


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the annotators of min(1, matches among the others / 3), 0 to 1.

    If all annotators gave the same answer, nothing is normalized and the prediction must equal it exactly. The rule is
    made for ten annotators; with a single one the accuracy is 1 if both are equal after normalization, else 0. Raises
    UsageError without answers.
    """
    require_text(prediction, "prediction")
    answers = text_list(answers, "answers")
    if not answers:
        raise UsageError("VQA accuracy needs reference answers; this question has none")
    if len(answers) == 1:
        return float(normalize_answer(prediction) == normalize_answer(answers[0]))
    answer, references = _plain(prediction), [_plain(reference) for reference in answers]
    if len(set(references)) > 1:
        answer, references = normalize_answer(answer), [normalize_answer(reference) for reference in references]
    same = references.count(answer)
    # annotators who gave the answer have one match less among the others
    total = (len(references) - same) * min(1.0, same / AGREEMENT) + same * min(1.0, (same - 1) / AGREEMENT)
    return total / len(references)
