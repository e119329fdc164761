"""Greedy search and beam search, id for id as the original's (transformers 4.15), over scores of any kind of array.

Beam search keeps its books here; what it needs of the scores themselves (`candidates`) is handed in, so that scores
on a GPU stay there. For numpy both are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from blip_lite.config import TextConfig
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus, blocked, is_noop
from blip_lite.errors import ConfigError, UsageError

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Stepper(Protocol[S_co]):
    """Scores of the next token for rows of ids. Rows are image-major: n rows of image 0, n of image 1, ..."""

    def start(self, prompt: Ids, max_length: int) -> S_co:
        """prompt [I, P] -> scores [I, V] after it, float32 or wider."""
        ...

    def expand(self, times: int) -> None:
        """Each image's row becomes `times` rows."""
        ...

    def step(self, ids: Ids) -> S_co:
        """The newest id of each row [R] -> scores [R, V]."""
        ...

    def reorder(self, rows: Ids) -> None:
        """Row i continues what row rows[i] was (of the same image)."""
        ...

    def keep(self, images: Ids, rows: Ids) -> None:
        """Only these images [K] go on, with these rows [K * n]."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The best continuations of each of I images, best first, each [I, k]."""

    totals: list[list[float]]  # log-probability of the whole row with the new id
    beams: list[list[int]]
    ids: list[list[int]]
    logprobs: list[list[float]]  # of the new id under the model


# scores [I * n, V], ids so far [I * n, t], their totals [I, n], the decoding, the end id, k -> k for each image
Best = Callable[[S, Ids, Floats, Beam, int, int], Candidates]


@dataclass(frozen=True)
class Generated:
    """One finished text: its new ids (with the end, if it ended) and the log-probability of each under the model.

    The model's own: before penalties, temperature and cut-offs.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    rank_score: float | None = None  # beam search: what hypotheses were ordered by

    @property
    def score(self) -> float:
        """Mean log-probability of the new tokens, the end included."""
        return sum(self.logprobs) / max(1, len(self.logprobs))


def generate(stepper: Stepper[Floats], prompt: Ids, decoding: Decoding, text: TextConfig) -> list[list[Generated]]:
    """Texts after prompt [I, P]: per image `decoding.num_captions` of them, best first. Sampling needs torch."""
    check_lengths(prompt.shape[1], decoding, text)
    if isinstance(decoding, Nucleus):
        raise UsageError("sampling; an exported model searches greedily or by beams, use the model it was made from")
    if not len(prompt):
        return []
    if isinstance(decoding, Beam):
        return BeamSearch(stepper, candidates, prompt, decoding, text.sep_id).run()
    return [[one] for one in _greedy(stepper, prompt, decoding, text.sep_id)]


def check_lengths(prompt: int, decoding: Decoding, text: TextConfig) -> None:
    """ConfigError when the prompt leaves no room or the model has fewer positions than `max_length`."""
    if prompt >= decoding.max_length:
        raise ConfigError(f"max_length {decoding.max_length}: the prompt alone has {prompt} ids")
    if decoding.max_length > text.max_length:
        raise ConfigError(f"max_length {decoding.max_length}: the model has {text.max_length} positions")


class BeamSearch(Generic[S]):
    """All images at once; an image leaves when nothing better can come for it."""

    def __init__(self, stepper: Stepper[S], best: Best[S], prompt: Ids, decoding: Beam, end: int) -> None:
        self.stepper, self.best, self.decoding, self.end = stepper, best, decoding, end
        self.prompt, self.n = prompt.shape[1], decoding.num_beams
        self.results = [_Hypotheses(self.n, decoding, self.prompt) for _ in range(len(prompt))]
        self.images = list(range(len(prompt)))  # which result each live image writes
        self.width = 1  # rows of an image: one until the first step has chosen n
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
        """A live row becomes a hypothesis of its image, ended by the end token or by the length."""
        ids, logprobs = self.ids[row, self.prompt :].tolist(), self.logprobs[row].tolist()
        ended = end_logprob is not None
        if end_logprob is not None:
            ids, logprobs = [*ids, self.end], [*logprobs, end_logprob]
        result = self.results[self.images[image]]
        norm = result.norm(total, self.ids.shape[1], ended)
        result.add(norm, Generated(tuple(ids), tuple(logprobs), norm))

    def advance(self) -> bool:
        """One token for every live image; finished images leave. Returns whether any is left."""
        found = self.best(self.scores, self.ids, self.totals, self.decoding, self.end, 2 * self.n)
        length, left, chosen = self.ids.shape[1], [], []
        for image, result in enumerate(self.images):
            columns = (found.totals[image], found.beams[image], found.ids[image], found.logprobs[image])
            ranked = list(zip(*columns, strict=True))
            going_on = self.split_finished(image, ranked)
            # original: the best candidate, ended or not, says if better can come; newer: the best of those going on
            best = ranked[0][0] if self.decoding.length_norm == "total" else going_on[0][0]
            if not self.results[result].is_done(best, length):
                left.append(image)
                chosen += going_on
        if left:
            self.advance_beams(left, chosen)
        self.images = [self.images[i] for i in left]
        return bool(left)

    def split_finished(
        self, image: int, ranked: Sequence[tuple[float, int, int, float]]
    ) -> list[tuple[float, int, int, float]]:
        """Of candidates (total, beam, id, log-probability) those that end become hypotheses; n others go on."""
        going_on: list[tuple[float, int, int, float]] = []
        for place, (total, beam, token, logprob) in enumerate(ranked):
            row = image * self.width + beam
            if token != self.end:
                going_on.append((total, row, token, logprob))
            elif place < self.n:
                self.finish(image, row, total, logprob)
            if len(going_on) == self.n:
                break
        return going_on

    def advance_beams(self, left: Sequence[int], chosen: Sequence[tuple[float, int, int, float]]) -> None:
        totals, rows, ids, logprobs = (np.asarray(column) for column in zip(*chosen, strict=True))
        index = rows * (self.n // self.width)  # in the stepper, whose rows are n an image from now on
        if self.width < self.n:
            self.stepper.expand(self.n)
        if len(left) < len(self.images):
            self.stepper.keep(np.asarray(left), index)
        elif self.width == self.n:
            self.stepper.reorder(index)
        self.width = self.n
        self.ids = np.concatenate([self.ids[rows], ids[:, None]], axis=1)
        self.totals = totals.astype(np.float32).reshape(len(left), self.n)
        self.logprobs = np.concatenate([self.logprobs[rows], logprobs[:, None].astype(np.float32)], axis=1)


@dataclass
class _Hypotheses:
    """The n best finished texts of one image, by normalised score."""

    size: int
    decoding: Beam
    prompt: int
    found: list[tuple[float, Generated]] = field(default_factory=list)
    worst: float = 1e9

    def norm(self, total: float, length: int, ended: bool) -> float:
        """length: all ids without the end."""
        if self.decoding.length_norm == "new":
            length = length - self.prompt + ended
        return total / float(length**self.decoding.length_penalty)

    def add(self, norm: float, generated: Generated) -> None:
        if len(self.found) < self.size or norm > self.worst:
            self.found.append((norm, generated))
            if len(self.found) > self.size:
                order = sorted((score, i) for i, (score, _) in enumerate(self.found))
                del self.found[order[0][1]]
                self.worst = order[1][0]
            else:
                self.worst = min(norm, self.worst)

    def is_done(self, best_total: float, length: int) -> bool:
        if len(self.found) < self.size:
            return False
        return self.decoding.early_stopping or self.worst >= self.norm(best_total, length, True)

    def best(self, count: int) -> list[Generated]:
        """Best first; of equals the one added last."""
        return [g for _, g in sorted(self.found, key=lambda item: item[0])[::-1]][:count]


def candidates(scores: Floats, ids: Ids, totals: Floats, decoding: Beam, end: int, k: int) -> Candidates:
    """The k best continuations of each image.

    Every row's k best are among them if anything of the row is; only those are turned into log-probabilities.
    """
    images, level = len(totals), _logsumexp(scores)
    if decoding.repetition_penalty != 1.0:  # which, unlike the rest, depends on the level of the scores
        scores, level = scores - level, np.zeros_like(level)
    best, tokens = _top(process(scores, ids, decoding, end), k)
    logprobs = (np.take_along_axis(scores, tokens, axis=1) - level).reshape(images, -1)
    rows = (best - level + totals.reshape(-1, 1)).reshape(images, -1)
    found, indices = _top(rows, k)
    columns = (np.take_along_axis(x, indices, axis=1).tolist() for x in (tokens.reshape(images, -1), logprobs))
    return Candidates(found.tolist(), (indices // tokens.shape[1]).tolist(), *columns)


def process(scores: Floats, ids: Ids, decoding: Decoding, end: int) -> Floats:
    """Repetition penalty, then minimum length, then blocked words: scores [R, V] of rows ids [R, t].

    Returns the scores themselves where nothing is to be done, else a changed copy.
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
        for row, words in enumerate(blocked(ids.tolist(), decoding)):
            scores[row, words] = -np.inf
    return scores


def _greedy(stepper: Stepper[Floats], prompt: Ids, decoding: Greedy, end: int) -> list[Generated]:
    ids, images = np.asarray(prompt, dtype=np.int64), np.arange(len(prompt))
    logprobs: list[list[float]] = [[] for _ in images]
    results: dict[int, Generated] = {}
    scores = stepper.start(ids, decoding.max_length)
    while True:
        new = process(scores, ids, decoding, end).argmax(axis=1)
        ids = np.concatenate([ids, new[:, None]], axis=1)
        gained = (np.take_along_axis(scores, new[:, None], axis=1) - _logsumexp(scores))[:, 0].tolist()
        for image, value in zip(images.tolist(), gained, strict=True):
            logprobs[image].append(value)
        gone = (new == end) | (ids.shape[1] == decoding.max_length)
        for row in np.flatnonzero(gone).tolist():
            image = int(images[row])
            results[image] = Generated(tuple(ids[row, prompt.shape[1] :].tolist()), tuple(logprobs[image]))
        left = np.flatnonzero(~gone)
        if not len(left):
            return [results[image] for image in range(len(prompt))]
        if len(left) < len(images):
            stepper.keep(left, left)
        ids, images = ids[left], images[left]
        scores = stepper.step(ids[:, -1])


def _logsumexp(scores: Floats) -> Floats:
    """[R, V] -> [R, 1]"""
    peak = scores.max(axis=1, keepdims=True)
    level: Floats = np.log(np.exp(scores - peak).sum(axis=1, keepdims=True)) + peak
    return level


def _top(values: Floats, k: int) -> tuple[Floats, Ids]:
    """The k largest of each row, descending, and their indices; of equals any that fit, the first first."""
    k = min(k, values.shape[1])
    indices = np.argpartition(-values, k - 1, axis=1)[:, :k]
    indices.sort(axis=1)
    order = np.argsort(-np.take_along_axis(values, indices, axis=1), axis=1, kind="stable")
    indices = np.take_along_axis(indices, order, axis=1)
    return np.take_along_axis(values, indices, axis=1), indices
