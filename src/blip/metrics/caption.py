"""BLEU-1..4, ROUGE-L and CIDEr-D of captions, equal to the reference scorer (pycocoevalcap 1.2) on the same tokens.

Source: github.com/tylin/coco-caption, bleu_scorer.py ("closest" reference length), rouge.py (beta 1.2) and
cider_scorer.py (sigma 6).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from blip.metrics.arguments import References, Texts, caption_lists, require_tokens
from blip.metrics.ptb import tokenize as tokenize
from blip_lite.errors import UsageError

logger = logging.getLogger(__name__)
MAX_N = 4
_BETA = 1.2  # weight of recall against precision in ROUGE-L
_SIGMA = 6.0  # width of the length penalty of CIDEr-D, in tokens
_TINY, _SMALL = 1e-15, 1e-9  # the reference scorer's guards against 0/0

Ngrams = Counter[tuple[str, ...]]


def ngrams(tokens: Sequence[str]) -> Ngrams:
    """Counts of all n-grams, n = 1..4."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(tokens) - n + 1))


def bleu_counts(references: Sequence[Sequence[str]], caption: Sequence[str]) -> list[int]:
    """Return ten counts of one caption; their sums determine the BLEU of a set.

    Matched n-grams, n = 1..4; n-grams of the caption; its length in tokens; the length of the closest reference.
    """
    _check(references, caption)
    counts = [ngrams(reference) for reference in references]
    correct = [0] * MAX_N
    for gram, count in ngrams(caption).items():
        correct[len(gram) - 1] += min(count, max(c[gram] for c in counts))
    guessed = [max(0, len(caption) - n) for n in range(MAX_N)]
    nearest = min((abs(len(r) - len(caption)), len(r)) for r in references)[1]
    return [*correct, *guessed, len(caption), nearest]


def bleu_scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1..4 [..., 4] from `bleu_counts` [..., 10], of single captions or summed over a set."""
    correct, guessed = counts[..., :MAX_N], counts[..., MAX_N : 2 * MAX_N]
    products = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1)
    ratio = (counts[..., -2] + _TINY) / (counts[..., -1] + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    scores: NDArray[np.float64] = products ** (1 / np.arange(1, MAX_N + 1)) * brevity[..., None]
    return scores


def rouge_l(references: Sequence[Sequence[str]], caption: Sequence[str]) -> float:
    """ROUGE-L of one caption (tokens): best precision and best recall over the references, independently."""
    _check(references, caption)
    mine = caption or [""]  # the reference scorer reads one empty word from an empty sentence
    pairs = [(_common_length(theirs, mine), len(theirs)) for theirs in (r or [""] for r in references)]
    precision = max(common for common, _ in pairs) / len(mine)
    recall = max(common / length for common, length in pairs)
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _check(references: Sequence[Sequence[str]], caption: Sequence[str]) -> None:
    require_tokens(caption, "caption")
    require_tokens(references, "references")
    if not references:
        raise UsageError("no references; give at least one")
    for reference in references:
        require_tokens(reference, "a reference")


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence; a row of the usual table is the bits of one integer."""
    positions: dict[str, int] = {}
    for i, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full  # zero bits at the positions where the table row increases
    for word in second:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()


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
    _rarity: dict[tuple[str, ...], float] = field(init=False)
    _vectors: list[list[_Vector]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.references or not all(self.references):
            raise UsageError("references: must be at least one image, each with at least one reference")
        for image in self.references:
            for reference in image:
                require_tokens(reference, "a reference")
        counts = [[ngrams(reference) for reference in refs] for refs in self.references]
        frequency = Counter(gram for image in counts for gram in set().union(*image))
        self._unseen = math.log(len(self.references))
        self._rarity = {gram: self._unseen - math.log(count) for gram, count in frequency.items()}
        self._vectors = [[self._vector(c) for c in image] for image in counts]

    def _vector(self, counts: Ngrams) -> _Vector:
        weights = {gram: count * self._rarity.get(gram, self._unseen) for gram, count in counts.items()}
        squares, bigrams = [0.0] * MAX_N, 0
        for gram, weight in weights.items():
            squares[len(gram) - 1] += weight * weight
            if len(gram) == 2:
                bigrams += counts[gram]
        # the reference scorer's "length" is the number of bigrams
        return _Vector(weights, [math.sqrt(x) for x in squares], bigrams)

    def score(self, image: int, caption: Sequence[str]) -> float:
        """CIDEr-D of one caption (tokens) of the image with that index."""
        require_tokens(caption, "caption")
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


def _set_bleu(n: int) -> Callable[[NDArray[np.float64]], float]:
    return lambda rows: float(bleu_scores(rows.sum(axis=0))[n - 1])


def _mean(rows: NDArray[np.float64]) -> float:
    return float(rows.mean())


# Value of each metric over a set, from all rows of `caption_statistics` or a resampled choice.
SET_SCORES: dict[str, Callable[[NDArray[np.float64]], float]] = {
    **{f"bleu{n}": _set_bleu(n) for n in range(1, MAX_N + 1)},
    "rouge_l": _mean,
    "cider": _mean,
}


def caption_statistics(references: References, captions: Texts) -> dict[str, NDArray[np.float64]]:
    """Return an array per metric of `SET_SCORES`, one row per caption: counts [n, 10] for BLEU, else scores [n, 1].

    Captions and references are strings. The document frequencies of CIDEr-D are those of all references, also for
    resampled rows; with a single image it is 0, with a warning. Raises UsageError for other arguments.
    """
    references, captions = caption_lists(references, captions)
    if len(captions) == 1:
        logger.warning("CIDEr is 0 for a single image: it weights words by the number of images they occur in")
    pairs = [([tokenize(r) for r in row], tokenize(c)) for row, c in zip(references, captions, strict=True)]
    scorer = Cider([refs for refs, _ in pairs])
    counts = np.array([bleu_counts(refs, caption) for refs, caption in pairs], dtype=np.float64)
    rouge = np.array([[rouge_l(refs, caption)] for refs, caption in pairs])
    cider = np.array([[scorer.score(i, caption)] for i, (_, caption) in enumerate(pairs)])
    return {**{f"bleu{n}": counts for n in range(1, MAX_N + 1)}, "rouge_l": rouge, "cider": cider}


def caption_scores(statistics: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return each metric of every caption [n], from `caption_statistics`."""
    scores = {f"bleu{n}": bleu_scores(statistics[f"bleu{n}"])[:, n - 1] for n in range(1, MAX_N + 1)}
    return {**scores, "rouge_l": statistics["rouge_l"][:, 0], "cider": statistics["cider"][:, 0]}


def score_captions(references: References, captions: Texts) -> dict[str, float]:
    """Return BLEU-1..4, ROUGE-L and CIDEr-D of captions (strings), each with its references (lists of strings).

    Both may also be dicts by id, as the reference scorer takes them, `{id: [text]}` or `{id: [{"caption": text}]}`,
    with one caption per id. Raises UsageError for other arguments, and if counts or ids differ.
    """
    statistics = caption_statistics(references, captions)
    return {name: score(statistics[name]) for name, score in SET_SCORES.items()}
