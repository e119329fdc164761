"""VQA v2's questions without photos, each put to photos whose captions name the same things.

They teach what people ask and how they answer. A photo fits a question if its captions name all things that the
question names and do not contradict the answer: they say a word of the answer, or the number, or (yes/no) leave it
open. A question that fits no photo is put to a grey picture.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.vqa.parse import (
    ADVERBS,
    COLORS,
    CONJUNCTIONS,
    DETERMINERS,
    FORMS,
    PREPOSITIONS,
    noun,
    tokens_of,
    word_set,
)
from experiments.vqa.photo import Photo
from experiments.vqa.real_questions import Real, vqa_questions

GREY = "grey"  # key of the picture without content
FIT = 5  # captions must say a word this often for a question to need it
MIN_VOTES = 3  # people who must give an answer for it to count
ASKING = word_set(
    """what which who whose where when why how many much color kind type sort do does did can could would should will
    picture photo image scene shown visible there here see seen any anyone anything you i he she they it him her his
    their its be been or if not no yes look like name called number brand time year s"""
)
NOT_NEEDED = ASKING | DETERMINERS | CONJUNCTIONS | PREPOSITIONS | ADVERBS | FORMS.keys() | COLORS


def text_questions(path: Path, photos: Sequence[Photo], copies: int, rng: random.Random) -> Iterator[tuple[str, Real]]:
    """Key of a photo (or `GREY`) and a question to it; each question up to `copies` times, with different photos."""
    words_by_photo = [{noun(word) for word in photo.vocab} | photo.vocab for photo in photos]
    by_word: dict[str, set[int]] = defaultdict(set)
    for i, words in enumerate(words_by_photo):
        for word in words:
            by_word[word].add(i)
    with gzip.open(path, "rt") as lines:
        rows = [matches for line in lines for matches in vqa_questions(json.loads(line))]
    for row in rows:
        fitting = [photos[i].key for i in fits(row, photos, by_word)]
        for key in rng.sample(fitting, min(copies, len(fitting))) or [GREY]:
            yield key, row


def fits(row: Real, photos: Sequence[Photo], by_word: Mapping[str, set[int]]) -> list[int]:
    """Numbers of the photos that fit a question."""
    question, answers, kind, _ = row
    needed = {noun(word) for word in tokens_of(question) if word not in NOT_NEEDED}
    needed = {word for word in needed if len(by_word.get(word, ())) >= FIT}
    if not needed and kind != "other":
        return []
    sets = sorted((by_word[word] for word in needed), key=len)
    matches = set.intersection(*sets) if sets else set(range(len(photos)))
    if kind == "number":
        return [i for i in sorted(matches) if not contradicted(question, answers, photos[i])]
    if kind == "other":
        likely = [answer for answer, votes in answers.items() if votes >= MIN_VOTES]
        likely_words = [
            [noun(w) for w in tokens_of(answer) if w not in DETERMINERS | PREPOSITIONS] for answer in likely
        ]
        matches &= set().union(*(set.intersection(*(by_word.get(w, set()) for w in ws)) for ws in likely_words if ws))
    return sorted(matches)


def contradicted(question: str, answers: Mapping[str, int], photo: Photo) -> bool:
    """Whether the captions count what the question counts, and differently."""
    words = tokens_of(question)[2:4]  # how many ...
    people = {"people": ("man", "woman", "boy", "girl", "child", "person"), "men": ("man",), "women": ("woman",)}
    for word in words:
        number = photo.count(people[word]) if word in people else photo.count_things({word, noun(word)})
        if number is not None:
            return answers.get(str(number), 0) < MIN_VOTES
    return False
