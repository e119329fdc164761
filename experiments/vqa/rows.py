"""Questions with answers as rows of JSON lines: which are kept, and how answers are evened out."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

MIN_ANSWER, MIN_FORM, MAX_SHARE = 12, 25, 0.65  # rows with an answer; rows of a form; its commonest answer
PER_TEXT = 500  # rows of a question's text
FREE_FORMS = ("how many", "animal:")  # one form for each answer
TAUGHT, MIN_VOTES = 2, 2  # answers that a training row keeps, and people of ten who must have given each


class Row(NamedTuple):
    """A question about a photo; `form` is what is balanced and counted together."""

    key: str
    question: str
    answers: dict[str, int]
    kind: str
    form: str


def best(row: Row) -> str:
    """The most frequent answer of a row."""
    return max(row.answers, key=row.answers.__getitem__)


def even(rows: Iterable[Row], rng: random.Random) -> list[Row]:
    """One row per question of a photo, without the surplus of the most frequent answer of each form.

    Ones (most things are single), zeros and dogs are cut to what the others have, the first answer of another form to
    half of its rows, and a text to `PER_TEXT` rows. Yes/no questions are even by the way they are drawn.
    """
    unique = list({(row.key, row.question): row for row in rows}.values())
    rng.shuffle(unique)
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    for row in unique:
        by_form[row.form][best(row)] += 1
    sizes = {form: counts.total() for form, counts in by_form.items()}
    animals = sum(n for form, n in sizes.items() if form.startswith("animal:"))
    twos = sizes.get("how many 2", 0)
    caps = {("how many 1", "1"): twos, ("how many 0", "0"): twos // 2}
    caps["animal:dog", "dog"] = animals - sizes.get("animal:dog", 0)
    for form, counts in by_form.items():
        answer, count = counts.most_common(1)[0]
        if not form.startswith(FREE_FORMS):
            caps[form, answer] = max(MIN_ANSWER, counts.total() - count)
    seen: Counter[tuple[str, str]] = Counter()
    texts: Counter[str] = Counter()
    kept = []
    for row in unique:
        place = (row.form, best(row))
        seen[place] += 1
        fits = seen[place] <= caps.get(place, len(unique)) and texts[row.question] < PER_TEXT
        if row.kind == "yes/no" or fits:
            texts[row.question] += 1
            kept.append(row)
    return kept


def frequent(rows: Sequence[Row]) -> tuple[set[str], set[str]]:
    """Forms with enough rows whose answer is not nearly always the same, and answers that occur often enough."""
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    answers: Counter[str] = Counter()
    for row in rows:
        by_form[row.form][best(row)] += 1
        answers.update(row.answers.keys())
    forms = {f for f, c in by_form.items() if c.total() >= MIN_FORM and c.most_common(1)[0][1] / c.total() <= MAX_SHARE}
    forms |= {row.form for row in rows if row.kind == "yes/no" or row.form.startswith(FREE_FORMS)}
    return forms, {answer for answer, n in answers.items() if n >= MIN_ANSWER}


def limit(rows: Sequence[Row], forms: set[str], answers: set[str]) -> list[Row]:
    """The rows of these forms with these answers."""
    cut = [r._replace(answers={a: n for a, n in r.answers.items() if a in answers}) for r in rows if r.form in forms]
    return [row for row in cut if row.answers]


def ten(answers: Mapping[str, int]) -> list[str]:
    """Ten answers in the given proportions (largest remainders)."""
    total = sum(answers.values())
    shares = {a: 10 * n / total for a, n in answers.items()}
    left = 10 - sum(int(s) for s in shares.values())
    more = set(sorted(shares, key=lambda a: (int(shares[a]) - shares[a], a))[:left])
    return [a for a in sorted(shares, key=lambda a: (-shares[a], a)) for _ in range(int(shares[a]) + (a in more))]


def taught(answers: Mapping[str, int]) -> dict[str, int]:
    """The answers worth learning: the first, and the second if more than one in ten gave it."""
    given = Counter(ten(answers)).most_common(TAUGHT)
    return dict([given[0], *(pair for pair in given[1:] if pair[1] >= MIN_VOTES)])


def write(path: Path, rows: Sequence[Row], photos: str) -> None:
    """Write rows with their photo PHOTOS/KEY.jpg; ten answers each."""
    with path.open("w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            values = {
                "image": f"{photos}/{row.key}.jpg",
                "question_id": i,
                "question": row.question.replace("_", " "),
                "answer": [answer.replace("_", " ") for answer in ten(row.answers)],
                "kind": row.kind,
                "form": row.form,
                "key": row.key,
            }
            file.write(json.dumps(values) + "\n")
