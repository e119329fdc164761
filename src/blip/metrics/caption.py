"""BLEU-1..4 and CIDEr-D of captions, equal to the reference scorer (pycocoevalcap 1.2) on the same tokens.

Source: github.com/tylin/coco-caption, bleu_scorer.py ("closest" reference length) and cider_scorer.py (sigma 6).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_N = 4
_SIGMA = 6.0  # width of CIDEr-D's length penalty, in tokens
_TINY, _SMALL = 1e-15, 1e-9  # the reference scorer's guards against 0/0
_TOKEN = re.compile(r"n't(?![a-z])|'(?:s|m|d|re|ve|ll)(?![a-z])|[a-z0-9]+?(?=n't(?![a-z]))|[^\W_]+(?:[-.,:/][^\W_]+)*")

Ngrams = Counter[tuple[str, ...]]


def tokenize(text: str) -> list[str]:
    """Lower-case words without punctuation, close to the Penn Treebank rules of the reference tokenizer."""
    return _TOKEN.findall(text.lower())


def ngrams(tokens: Sequence[str]) -> Ngrams:
    """Counts of all n-grams, n = 1..4."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(tokens) - n + 1))


def bleu(references: Sequence[Sequence[Sequence[str]]], captions: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1..4 over the set. references: per caption a list of token lists; captions: token lists."""
    correct, guessed = [0] * MAX_N, [0] * MAX_N
    length = reference_length = 0
    for refs, caption in zip(references, captions, strict=True):
        length += len(caption)
        reference_length += min((abs(len(r) - len(caption)), len(r)) for r in refs)[1]
        best: Ngrams = Counter()
        for reference in refs:
            best |= ngrams(reference)
        for gram, count in ngrams(caption).items():
            guessed[len(gram) - 1] += count
            correct[len(gram) - 1] += min(count, best[gram])
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(MAX_N):
        product *= (correct[n] + _TINY) / (guessed[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * brevity)
    return scores


@dataclass
class _Vector:
    """tf-idf weights of a sentence, their norm for each n, and its length."""

    weights: dict[tuple[str, ...], float]
    norms: list[float]
    length: int


@dataclass
class Cider:
    """CIDEr-D against a fixed set of references: document frequencies are counted once.

    `references` is a list of images, each a list of token lists. Scores are on the scorer's scale (times 10).
    """

    references: Sequence[Sequence[Sequence[str]]]
    _frequency: Counter[tuple[str, ...]] = field(init=False)
    _vectors: list[list[_Vector]] = field(init=False)

    def __post_init__(self) -> None:
        counts = [[ngrams(reference) for reference in refs] for refs in self.references]
        self._frequency = Counter(gram for image in counts for gram in set().union(*image))
        self._log_images = math.log(len(self.references))
        self._vectors = [[self._vector(c) for c in image] for image in counts]

    def _vector(self, counts: Ngrams) -> _Vector:
        weights = {
            gram: count * (self._log_images - math.log(max(1.0, self._frequency[gram])))
            for gram, count in counts.items()
        }
        norms = [0.0] * MAX_N
        for gram, weight in weights.items():
            norms[len(gram) - 1] += weight * weight
        # the reference scorer's "length" is the number of bigrams
        return _Vector(weights, [math.sqrt(x) for x in norms], sum(c for g, c in counts.items() if len(g) == 2))

    def score(self, image: int, caption: Sequence[str]) -> float:
        """CIDEr-D of one caption (tokens) of the image with that index."""
        mine = self._vector(ngrams(caption))
        total = sum(self._similarity(mine, reference) for reference in self._vectors[image])
        return 10.0 * total / len(self._vectors[image])

    @staticmethod
    def _similarity(mine: _Vector, reference: _Vector) -> float:
        dots = [0.0] * MAX_N
        for gram, weight in mine.weights.items():
            theirs = reference.weights.get(gram)
            if theirs is not None:
                dots[len(gram) - 1] += min(weight, theirs) * theirs
        for n in range(MAX_N):
            if mine.norms[n] != 0 and reference.norms[n] != 0:
                dots[n] /= mine.norms[n] * reference.norms[n]
        delta = mine.length - reference.length
        return sum(dots) / MAX_N * math.exp(-(delta**2) / (2 * _SIGMA**2))


def score_captions(references: Sequence[Sequence[str]], captions: Sequence[str]) -> dict[str, float]:
    """BLEU-1..4 and CIDEr-D of a set of captions (strings), each with its references (strings)."""
    refs = [[tokenize(r) for r in row] for row in references]
    hyps = [tokenize(c) for c in captions]
    scorer = Cider(refs)
    scores = {f"bleu{n + 1}": value for n, value in enumerate(bleu(refs, hyps))}
    scores["cider"] = sum(scorer.score(i, hyp) for i, hyp in enumerate(hyps)) / len(hyps)
    return scores
