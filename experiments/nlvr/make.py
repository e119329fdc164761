"""Make statements about two photos, true or false by their captions: material to train a small NLVR2 model on.

    python -m experiments.nlvr.make --data ../shared/data -o runs

Reads the Flickr8k shards; writes photos/SPLIT/KEY.jpg, nlvr/train.jsonl and nlvr/dev.jsonl. A statement is false only
if captions refute it (no caption mentions the thing or anything close, or they mention another act, colour or number).
Every sentence occurs as often true as false, and most pairs of photos have true and false sentences, so that neither
determines the label. Prints counts and the accuracy of a bag-of-words classifier of the sentence on dev.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.nlvr.statements import Row, make
from experiments.vqa.photo import Photo, read_shards

KEEP = {"train": 0.95, "dev": 0.3}  # of the draws

SIMPLE = ("any", "both", "neither")  # what a small model learns first; of all kinds together it learns none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (args.output / "nlvr").mkdir(parents=True, exist_ok=True)
    rows = {}
    for split, share in KEEP.items():
        samples = read_shards(sorted(args.data.glob(f"flickr8k-{split}-*.tar")), args.output / "photos" / split)
        photos = [Photo(key, values["captions"]) for key, values in samples]
        rows[split] = make(photos, share, random.Random(args.seed))
        for name, kinds in (("", None), ("-simple", SIMPLE)):
            write(args.output / "nlvr" / f"{split}{name}.jsonl", rows[split], split, kinds)
    report(rows["train"], rows["dev"])


def write(path: Path, rows: Sequence[Row], split: str, kinds: Sequence[str] | None) -> None:
    with path.open("w") as file:
        for i, row in enumerate(rows):
            if kinds is not None and row.kind not in kinds:
                continue
            images = [f"../photos/{split}/{key}.jpg" for key in (row.left, row.right)]
            values = {
                "images": images,
                "sentence": row.sentence,
                "label": str(row.label),
                "identifier": f"{split}-{i}",
                "kind": row.kind,
            }
            file.write(json.dumps(values) + "\n")


def report(train: Sequence[Row], dev: Sequence[Row]) -> None:
    """Counts, balance, and the accuracy of classifiers that see the sentence, or which photos, alone."""
    by_sentence = Counter((row.sentence, row.label) for row in train)
    even = sum(1 for row in train if by_sentence[row.sentence, True] == by_sentence[row.sentence, False])
    labels: dict[tuple[str, ...], set[bool]] = {}
    for row in train:
        labels.setdefault(tuple(sorted((row.left, row.right))), set()).add(row.label)
    mixed = sum(1 for row in train if len(labels[tuple(sorted((row.left, row.right)))]) == 2)
    guess = bag_of_words(train, dev)
    print(f"{100 * even / len(train):.1f} % of train rows have a sentence that is as often true as false")
    print(f"{100 * mixed / len(train):.1f} % have a pair of photos with a true and a false sentence")
    print("kind            train    dev   true in dev %   sentence only, dev accuracy %")
    for kind in [*sorted({row.kind for row in train}), ""]:
        mine = [i for i, row in enumerate(dev) if kind in ("", row.kind)]
        true = np.mean([dev[i].label for i in mine])
        right = np.mean([dev[i].label == guess[i] for i in mine])
        count = sum(1 for row in train if kind in ("", row.kind))
        print(f"{kind or 'all':15}{count:6}{len(mine):7}{100 * true:12.1f}{100 * right:18.1f}")


def bag_of_words(train: Sequence[Row], dev: Sequence[Row], steps: int = 400) -> list[bool]:
    """Logistic regression on which words and neighbouring words a sentence has, fitted to train: verdicts on dev."""
    words = Counter(w for row in train for w in grams(row.sentence))
    index = {w: i for i, (w, _) in enumerate(words.most_common(4000))}
    columns_of = [[[index[w] for w in grams(row.sentence) if w in index] for row in rows] for rows in (train, dev)]
    labels = np.array([row.label for row in train])
    weights, rng = np.zeros(len(index)), np.random.default_rng(0)
    for step in range(steps):
        batch = rng.integers(len(train), size=256)
        scores = np.array([weights[columns_of[0][i]].sum() for i in batch])
        errors = (labels[batch] - 1 / (1 + np.exp(-scores))) * (1 - step / steps) / 50
        for i, error in zip(batch, errors, strict=True):
            weights[columns_of[0][i]] += error
    return [bool(weights[columns].sum() > 0) for columns in columns_of[1]]


def grams(sentence: str) -> set[str]:
    words = re.findall(r"[a-z]+", sentence.lower())
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


if __name__ == "__main__":
    main()
