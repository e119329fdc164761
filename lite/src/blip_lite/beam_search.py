"""Greedy search and beam search with the ids of the original (transformers 4.15).

`BeamSearch` is the bookkeeping for any array type: the function that picks candidates from the scores is passed in, so
that scores on a GPU stay there. Greedy search and `candidates` here are for numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from blip_lite.arrays import Floats, Ids
from blip_lite.config import TextConfig
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus, blocked, is_noop
from blip_lite.errors import ConfigError, UsageError
from blip_lite.tokenizer import Tokenizer

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Stepper(Protocol[S_co]):
    """Scores of the next token for rows of ids. Rows are image-major: n rows of image 0, n of image 1, ..."""

    def start(self, prompt: Ids, max_length: int) -> S_co:
        """Scores [I, V] after prompt [I, P], float32 or wider."""
        ...

    def expand(self, times: int) -> None:
        """Repeat each image's row `times` times."""
        ...

    def step(self, ids: Ids) -> S_co:
        """Scores [R, V] after appending one id per row [R]."""
        ...

    def reorder(self, rows: Ids) -> None:
        """Continue row rows[i] (of the same image) as row i."""
        ...

    def keep(self, images: Ids, rows: Ids) -> None:
        """Drop all but these images [K], with these rows [K * n]."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The best continuations of each of I images, best first, each [I, k]."""

    totals: list[list[float]]  # log-probability of the row with the new id
    beams: list[list[int]]
    ids: list[list[int]]
    logprobs: list[list[float]]  # of the new id under the model


# scores [I * n, V], ids so far [I * n, t], their totals [I, n], decoding, end id, k -> k candidates per image
PickCandidates = Callable[[S, Ids, Floats, Beam, int, int], Candidates]


@dataclass(frozen=True)
class Generated:
    """New ids of a finished text (with the end id, if it ended) and their log-probabilities.

    Log-probabilities are the model's, before penalties, temperature and cut-offs.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    rank_score: float | None = None  # beam search: the score that orders hypotheses

    @property
    def score(self) -> float:
        """Mean log-probability of the new tokens, the end included."""
        return sum(self.logprobs) / max(1, len(self.logprobs))


@dataclass(frozen=True)
class Hypothesis:
    """A generated text with its new ids (and the end id, if it ended). `score`: mean log-probability of the ids."""

    ids: tuple[int, ...]
    text: str
    score: float
    logprobs: tuple[float, ...]


def decode_all(tokenizer: Tokenizer, rows: Sequence[Sequence[Generated]]) -> list[list[Hypothesis]]:
    """Generated ids with their texts."""
    return [[Hypothesis(g.ids, tokenizer.decode(g.ids), g.score, g.logprobs) for g in row] for row in rows]


def generate(stepper: Stepper[Floats], prompt: Ids, decoding: Decoding, text: TextConfig) -> list[list[Generated]]:
    """Texts after prompt [I, P]: `decoding.num_captions` per image, best first. Raises UsageError for sampling."""
    check_lengths(prompt.shape[1], decoding, text)
    if isinstance(decoding, Nucleus):
        raise UsageError("sampling is not supported with onnxruntime; use greedy search or beam search")
    if not len(prompt):
        return []
    if isinstance(decoding, Beam):
        return BeamSearch(stepper, candidates, prompt, decoding, text.sep_id).run()
    return [[generated] for generated in _greedy(stepper, prompt, decoding, text.sep_id)]


def check_lengths(prompt: int, decoding: Decoding, text: TextConfig) -> None:
    """Raise ConfigError if the prompt leaves no room or the model has fewer positions than `max_length`."""
    if prompt >= decoding.max_length:
        raise ConfigError(f"max_length {decoding.max_length}: must exceed the {prompt} ids of the prompt")
    if decoding.max_length > text.max_length:
        raise ConfigError(f"max_length {decoding.max_length}: the model has {text.max_length} positions")


class BeamSearch(Generic[S]):
    """Beam search of all images at once; an image is dropped when no better hypothesis is possible for it."""

    def __init__(self, stepper: Stepper[S], pick: PickCandidates[S], prompt: Ids, decoding: Beam, end: int) -> None:
        self.stepper, self.pick, self.decoding, self.end = stepper, pick, decoding, end
        self.prompt, self.beams = prompt.shape[1], decoding.num_beams
        self.results = [_Hypotheses(self.beams, decoding, self.prompt) for _ in range(len(prompt))]
        self.images = list(range(len(prompt)))  # index into `results` of each live image
        self.width = 1  # rows per image: 1 until the first step has chosen the beams
        self.ids = np.asarray(prompt, dtype=np.int64)
        self.totals = np.zeros((len(prompt), 1), dtype=np.float32)
        self.logprobs = np.zeros((len(prompt), 0), dtype=np.float32)
        self.scores = stepper.start(self.ids, decoding.max_length)

    def run(self) -> list[list[Generated]]:
        while True:
            live = self.advance()
            if not live or self.ids.shape[1] == self.decoding.max_length:
                break
            self.scores = self.stepper.step(self.ids[:, -1])
        totals = self.totals.tolist()
        for image in range(len(self.images)):
            for beam in range(self.width):
                self.finish(image, image * self.width + beam, totals[image][beam])
        return [hypotheses.best(self.decoding.num_captions) for hypotheses in self.results]

    def finish(self, image: int, row: int, total: float, end_logprob: float | None = None) -> None:
        """Make a live row a hypothesis of its image, ended by the end id or by the maximum length."""
        ids, logprobs = self.ids[row, self.prompt :].tolist(), self.logprobs[row].tolist()
        ended = end_logprob is not None
        if end_logprob is not None:
            ids, logprobs = [*ids, self.end], [*logprobs, end_logprob]
        result = self.results[self.images[image]]
        norm = result.norm(total, self.ids.shape[1], ended)
        result.add(norm, Generated(tuple(ids), tuple(logprobs), norm))

    def advance(self) -> bool:
        """Add one token to every live image and drop finished images. Return whether any image is left."""
        picked = self.pick(self.scores, self.ids, self.totals, self.decoding, self.end, 2 * self.beams)
        length, kept, chosen = self.ids.shape[1], [], []
        for image, result in enumerate(self.images):
            columns = (picked.totals[image], picked.beams[image], picked.ids[image], picked.logprobs[image])
            ranked = list(zip(*columns, strict=True))
            unfinished = self.split_finished(image, ranked)
            # the original compares with the best candidate, ended or not; newer libraries with the best unfinished one
            best = ranked[0][0] if self.decoding.length_norm == "total" else unfinished[0][0]
            if not self.results[result].is_done(best, length):
                kept.append(image)
                chosen += unfinished
        if kept:
            self.advance_beams(kept, chosen)
        self.images = [self.images[i] for i in kept]
        return bool(kept)

    def split_finished(
        self, image: int, ranked: Sequence[tuple[float, int, int, float]]
    ) -> list[tuple[float, int, int, float]]:
        """Store candidates (total, beam, id, log-probability) that end as hypotheses; return the best others."""
        unfinished: list[tuple[float, int, int, float]] = []
        for rank, (total, beam, token, logprob) in enumerate(ranked):
            row = image * self.width + beam
            if token != self.end:
                unfinished.append((total, row, token, logprob))
            elif rank < self.beams:
                self.finish(image, row, total, logprob)
            if len(unfinished) == self.beams:
                break
        return unfinished

    def advance_beams(self, kept: Sequence[int], chosen: Sequence[tuple[float, int, int, float]]) -> None:
        """Append the chosen ids to the rows they continue."""
        totals, rows, ids, logprobs = (np.asarray(column) for column in zip(*chosen, strict=True))
        index = rows * (self.beams // self.width)  # in the stepper, which has `beams` rows per image from now on
        if self.width < self.beams:
            self.stepper.expand(self.beams)
        if len(kept) < len(self.images):
            self.stepper.keep(np.asarray(kept), index)
        elif self.width == self.beams:
            self.stepper.reorder(index)
        self.width = self.beams
        self.ids = np.concatenate([self.ids[rows], ids[:, None]], axis=1)
        self.totals = totals.astype(np.float32).reshape(len(kept), self.beams)
        self.logprobs = np.concatenate([self.logprobs[rows], logprobs[:, None].astype(np.float32)], axis=1)


@dataclass
class _Hypotheses:
    """The best finished texts of one image, by normalised score."""

    size: int
    decoding: Beam
    prompt: int
    texts: list[tuple[float, Generated]] = field(default_factory=list)
    worst: float = 1e9

    def norm(self, total: float, length: int, ended: bool) -> float:
        """Normalised score. length: number of ids without the end."""
        if self.decoding.length_norm == "new":
            length = length - self.prompt + ended
        return total / float(length**self.decoding.length_penalty)

    def add(self, norm: float, generated: Generated) -> None:
        if len(self.texts) < self.size or norm > self.worst:
            self.texts.append((norm, generated))
            if len(self.texts) > self.size:
                order = sorted((score, i) for i, (score, _) in enumerate(self.texts))
                del self.texts[order[0][1]]
                self.worst = order[1][0]
            else:
                self.worst = min(norm, self.worst)

    def is_done(self, best_total: float, length: int) -> bool:
        if len(self.texts) < self.size:
            return False
        return self.decoding.early_stopping or self.worst >= self.norm(best_total, length, True)

    def best(self, count: int) -> list[Generated]:
        """Best first; ties go to the text added last."""
        return [g for _, g in sorted(self.texts, key=lambda item: item[0])[::-1]][:count]


def candidates(scores: Floats, ids: Ids, totals: Floats, decoding: Beam, end: int, k: int) -> Candidates:
    """The k best continuations of each image.

    Only the k best of each row can be among them, so only these are turned into log-probabilities.
    """
    images, level = len(totals), _logsumexp(scores)
    if decoding.repetition_penalty != 1.0:  # unlike the other steps, the penalty depends on the scores' level
        scores, level = scores - level, np.zeros_like(level)
    best, tokens = _top(process(scores, ids, decoding, end), k)
    logprobs = (np.take_along_axis(scores, tokens, axis=1) - level).reshape(images, -1)
    rows = (best - level + totals.reshape(-1, 1)).reshape(images, -1)
    top, indices = _top(rows, k)
    columns = (np.take_along_axis(x, indices, axis=1).tolist() for x in (tokens.reshape(images, -1), logprobs))
    return Candidates(top.tolist(), (indices // tokens.shape[1]).tolist(), *columns)


def process(scores: Floats, ids: Ids, decoding: Decoding, end: int) -> Floats:
    """Apply repetition penalty, minimum length and blocked ids to scores [R, V] of rows ids [R, t].

    Returns a changed copy, or `scores` themselves if there is nothing to do.
    """
    if is_noop(decoding, ids.shape[1]):
        return scores
    scores, penalty = scores.copy(), decoding.repetition_penalty
    if penalty != 1.0:
        seen = np.take_along_axis(scores, ids, axis=1)
        np.put_along_axis(scores, ids, np.where(seen < 0, seen * penalty, seen / penalty), axis=1)
    if ids.shape[1] < decoding.min_length:
        scores[:, end] = -np.inf
    if decoding.no_repeat_ngram or decoding.banned:
        for row, tokens in enumerate(blocked(ids.tolist(), decoding)):
            scores[row, tokens] = -np.inf
    return scores


def _greedy(stepper: Stepper[Floats], prompt: Ids, decoding: Greedy, end: int) -> list[Generated]:
    ids, images = np.asarray(prompt, dtype=np.int64), np.arange(len(prompt))
    logprobs: list[list[float]] = [[] for _ in images]
    results: dict[int, Generated] = {}
    scores = stepper.start(ids, decoding.max_length)
    while True:
        new = process(scores, ids, decoding, end).argmax(axis=1)
        ids = np.concatenate([ids, new[:, None]], axis=1)
        new_logprobs = (np.take_along_axis(scores, new[:, None], axis=1) - _logsumexp(scores))[:, 0].tolist()
        for image, value in zip(images.tolist(), new_logprobs, strict=True):
            logprobs[image].append(value)
        finished = (new == end) | (ids.shape[1] == decoding.max_length)
        for row in np.flatnonzero(finished).tolist():
            image = int(images[row])
            results[image] = Generated(tuple(ids[row, prompt.shape[1] :].tolist()), tuple(logprobs[image]))
        kept = np.flatnonzero(~finished)
        if not len(kept):
            return [results[image] for image in range(len(prompt))]
        if len(kept) < len(images):
            stepper.keep(kept, kept)
        ids, images = ids[kept], images[kept]
        scores = stepper.step(ids[:, -1])


def _logsumexp(scores: Floats) -> Floats:
    """[R, V] -> [R, 1]"""
    peak = scores.max(axis=1, keepdims=True)
    level: Floats = np.log(np.exp(scores - peak).sum(axis=1, keepdims=True)) + peak
    return level


def _top(values: Floats, k: int) -> tuple[Floats, Ids]:
    """The k largest values of each row, descending, and their indices; among equal values the first index first."""
    k = min(k, values.shape[1])
    indices = np.argpartition(-values, k - 1, axis=1)[:, :k]
    indices.sort(axis=1)
    order = np.argsort(-np.take_along_axis(values, indices, axis=1), axis=1, kind="stable")
    indices = np.take_along_axis(indices, order, axis=1)
    return np.take_along_axis(values, indices, axis=1), indices
