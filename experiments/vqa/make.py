"""Makes questions with answers from captions: material to train and measure a small VQA model on.

    python -m experiments.vqa.make --data ../shared/data -o runs

Reads the Flickr8k shards (and `coco-mini`, whose real questions are only measured on); writes photos/SPLIT/KEY.jpg,
vqa/train.jsonl, vqa/dev.jsonl, vqa/coco.jsonl and vqa/answers.json. Each row has ten answers, shared out as the
captions support them. Yes/no questions are drawn so that every question text has as many yes as no; "no" needs that
no caption mentions the thing or anything close (`questions.toml`). Prints counts and the accuracy
of answers without the photo.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.vqa.closed_questions import draw
from experiments.vqa.open_questions import open_questions
from experiments.vqa.photo import Photo, read_shards

MIN_ANSWER, MIN_FORM, MAX_SHARE = 12, 25, 0.65  # rows with an answer; rows of a form; its commonest answer
SHARE = {"train": 1.0, "dev": 0.55}  # of the possible questions
THING_CAP = 0.25  # yes rows of one thing, as a share of the photos
TWO_TEXTS = ("color", "count", "place", "sport", "animal", "ground", "in mouth")  # kinds and forms with two wordings


class Row(NamedTuple):
    """A question about a photo; `form` is what is balanced and counted together."""

    key: str
    question: str
    answers: dict[str, int]
    kind: str
    form: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = {}
    for split in ("train", "dev"):
        samples = read_shards(sorted(args.data.glob(f"flickr8k-{split}-*.tar")), args.output / "photos" / split)
        photos = [Photo(key, values["captions"]) for key, values in samples]
        rng = random.Random(args.seed)
        rows[split] = thin([*closed_rows(photos, SHARE[split], rng), *open_rows(photos, SHARE[split], rng)], rng)
    forms, answers = frequent(rows["train"])
    rows = {split: limit(questions, forms, answers) for split, questions in rows.items()}
    (args.output / "vqa").mkdir(parents=True, exist_ok=True)
    (args.output / "vqa" / "answers.json").write_text(json.dumps(sorted(answers), indent=0) + "\n")
    for split, questions in rows.items():
        write(args.output / "vqa" / f"{split}.jsonl", questions, split)
    write_coco(args.data / "coco-mini-00000.tar", args.output)
    report(rows["train"], rows["dev"], len(answers))


def closed_rows(photos: Sequence[Photo], share: float, rng: random.Random) -> Iterator[Row]:
    """The yes/no questions."""
    for key, text, answer, form in draw(photos, int(THING_CAP * len(photos)), share, rng):
        yield Row(key, text, {answer: 1}, "yes/no", form)


def open_rows(photos: Sequence[Photo], share: float, rng: random.Random) -> Iterator[Row]:
    """All others, some in two ways; each is kept with this probability."""
    for photo in photos:
        for kind, form, answers, texts in open_questions(photo):
            times = 2 if kind in TWO_TEXTS or form.split(":")[0] in TWO_TEXTS else 1
            for text in rng.sample(texts, min(times, len(texts))) if answers and rng.random() < share else ():
                yield Row(photo.key, text, dict(answers), kind, form)


def thin(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    """Drop part of the most frequent answers: one of a thing, dogs among animals. One row per question."""
    rows = list({(r.key, r.question): r for r in rows}.values())
    rng.shuffle(rows)
    sizes = Counter(r.form for r in rows)
    other_animals = sum(n for form, n in sizes.items() if form.startswith("animal:")) - sizes["animal:dog"]
    caps = {"how many 1": sizes["how many 2"], "how many 0": sizes["how many 3"], "animal:dog": other_animals}
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        seen[row.form] += 1
        if seen[row.form] <= caps.get(row.form, len(rows)):
            kept.append(row)
    return kept


def frequent(rows: Sequence[Row]) -> tuple[set[str], set[str]]:
    """Forms with enough rows whose answer is not nearly always the same, and answers that occur often enough."""
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    answers: Counter[str] = Counter()
    for row in rows:
        by_form[row.form][max(row.answers, key=row.answers.__getitem__)] += 1
        answers.update(row.answers.keys())
    free = ("yes/no", "how many", "animal:")
    forms = {f for f, c in by_form.items() if c.total() >= MIN_FORM and c.most_common(1)[0][1] / c.total() <= MAX_SHARE}
    forms |= {r.form for r in rows if r.kind == "yes/no" or r.form.startswith(free)}
    return forms, {a for a, n in answers.items() if n >= MIN_ANSWER}


def limit(rows: Sequence[Row], forms: set[str], answers: set[str]) -> list[Row]:
    """The rows of these forms with these answers."""
    cut = [r._replace(answers={a: n for a, n in r.answers.items() if a in answers}) for r in rows if r.form in forms]
    return [r for r in cut if r.answers]


def ten(answers: Mapping[str, int]) -> list[str]:
    """Ten answers in the given proportions (largest remainders)."""
    total = sum(answers.values())
    shares = {a: 10 * n / total for a, n in answers.items()}
    left = 10 - sum(int(s) for s in shares.values())
    more = set(sorted(shares, key=lambda a: (int(shares[a]) - shares[a], a))[:left])
    return [a for a in sorted(shares, key=lambda a: (-shares[a], a)) for _ in range(int(shares[a]) + (a in more))]


def write(path: Path, rows: Sequence[Row], split: str) -> None:
    with path.open("w") as file:
        for i, row in enumerate(rows):
            values = {
                "image": f"../photos/{split}/{row.key}.jpg",
                "question_id": i,
                "question": row.question,
                "answer": ten(row.answers),
                "kind": row.kind,
                "form": row.form,
                "key": row.key,
            }
            file.write(json.dumps(values) + "\n")


def write_coco(shard: Path, output: Path) -> None:
    """The real questions, in the same form."""
    with (output / "vqa" / "coco.jsonl").open("w") as file:
        for key, values in read_shards([shard], output / "photos" / "coco"):
            for question in values.get("questions") or ():
                row = {
                    "image": f"../photos/coco/{key}.jpg",
                    "question_id": question["question_id"],
                    "question": question["question"],
                    "answer": question["answers"],
                    "kind": question["answer_type"],
                    "form": question["question_type"],
                    "key": key,
                }
                file.write(json.dumps(row) + "\n")


def report(train: Sequence[Row], dev: Sequence[Row], vocabulary: int) -> None:
    """Counts, and the accuracy on dev of the commonest training answer: of the kind, of the text, of its start."""
    print(
        f"{vocabulary} answers; train {len(train)}, dev {len(dev)} questions, {len({r.question for r in train})} texts"
    )
    keys = (lambda r: r.kind, lambda r: " ".join(r.question.split()[:4]), lambda r: r.question)
    guesses = []
    for key in keys:
        tables: dict[str, Counter[str]] = defaultdict(Counter)
        for row in train:
            tables[key(row)].update(min_three(row))
        guesses.append({name: table.most_common(1)[0][0] for name, table in tables.items()})
    print("kind     train    dev   majority  first 4 words  exact text (accuracy %)")
    for kind in ("yes/no", "color", "count", "what", ""):
        mine = [r for r in dev if kind in ("", r.kind)]
        scores = []
        for key, guess in zip(keys, guesses, strict=True):
            scores.append(sum(min_three(r).get(guess.get(key(r), guesses[0][r.kind]), 0) for r in mine) / len(mine))
        count = sum(1 for r in train if kind in ("", r.kind))
        print(f"{kind or 'all':8}{count:7}{len(mine):7}" + "".join(f"{100 * s:11.1f}" for s in scores))


def min_three(row: Row) -> dict[str, float]:
    """VQA's accuracy of every answer, min(1, givers / 3)."""
    return {a: min(1.0, n / 3) for a, n in Counter(ten(row.answers)).items()}


if __name__ == "__main__":
    main()
