"""Greedy search, sampling and beam search with the semantics of the original's (`generate` of transformers 4.15).

Free functions over a `Stepper`, which turns ids into scores of the next token: the text transformer with its caches
here, a table in the tests, another backend later. Lengths count all ids: prompt, start and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from blip.config import TextConfig
from blip.errors import ConfigError
from blip.model.text import Cross, SelfCache, TextTransformer

Words = tuple[tuple[int, ...], ...]  # sequences of ids


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The likeliest token each time."""

    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0  # no n-gram of this size twice; 0 = off
    banned: Words = ()

    @property
    def num_captions(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """Sampling from the `top_k` likeliest, and of these from the smallest set whose chances reach `top_p`."""

    top_p: float = 0.9
    top_k: int = 50  # the original's silent default; 0 = off
    temperature: float = 1.0
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.1  # original: fixed, whatever the caller asks for; ours: the default
    num_captions: int = 1
    no_repeat_ngram: int = 0
    banned: Words = ()


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search. `length_norm="total"` divides by all ids but the end, prompt included, as the original;
    "new" by the new ids with the end, as newer libraries.
    """

    num_beams: int = 3
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    length_norm: Literal["total", "new"] = "total"
    num_captions: int = 1
    no_repeat_ngram: int = 0
    banned: Words = ()

    def __post_init__(self) -> None:
        if not 1 <= self.num_captions <= self.num_beams:
            raise ConfigError(f"num_captions {self.num_captions}: must be from 1 to num_beams ({self.num_beams})")


Decoding = Greedy | Nucleus | Beam


@dataclass(frozen=True)
class Generated:
    """One finished text: its new ids (with the end, if it ended) and the log-probability of each under the model."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean log-probability of the new tokens, the end included."""
        return sum(self.logprobs) / max(1, len(self.logprobs))


class Stepper(Protocol):
    """Scores of the next token for rows of ids. Rows are image-major: n rows of image 0, n of image 1, ..."""

    def start(self, prompt: Tensor, max_length: int) -> Tensor:
        """prompt [I, P] -> scores [I, V] after it."""
        ...

    def widen(self, times: int) -> None:
        """Each image's row becomes `times` rows."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """The newest id of each row [R] -> scores [R, V]."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Row i continues what row rows[i] was (of the same image)."""
        ...

    def keep(self, images: Tensor, rows: Tensor) -> None:
        """Only these images [K] and their rows [K * n] go on."""
        ...


class TextStepper:
    """The text transformer with its self-attention cache and the images' keys and values, never copied per row."""

    def __init__(self, text: TextTransformer, cross: Sequence[Cross], cross_mask: Tensor | None = None) -> None:
        self.text, self.cross, self.cross_mask = text, list(cross), cross_mask
        self._cache: SelfCache | None = None

    @property
    def cache(self) -> SelfCache:
        assert self._cache is not None, "start() comes first"
        return self._cache

    def start(self, prompt: Tensor, max_length: int) -> Tensor:
        keys = self.cross[0][0]
        assert isinstance(keys, Tensor), "decoders read one source"
        self._cache = SelfCache(self.text.config, len(prompt), max_length, keys.device, keys.dtype)
        return self._scores(prompt)

    def _scores(self, ids: Tensor) -> Tensor:
        hidden = self.text(ids, cross=self.cross, cross_mask=self.cross_mask, causal=True, cache=self.cache)
        return self.text.logits(hidden[:, -1]).float()

    def widen(self, times: int) -> None:
        self.cache.repeat(times)

    def step(self, ids: Tensor) -> Tensor:
        return self._scores(ids[:, None])

    def reorder(self, rows: Tensor) -> None:
        self.cache.reorder(rows)

    def keep(self, images: Tensor, rows: Tensor) -> None:
        self.cache.select(rows)
        self.cross = [(kv[0][images], kv[1][images]) for kv in self.cross]
        if self.cross_mask is not None:
            self.cross_mask = self.cross_mask[images]


@torch.no_grad()
def generate(
    stepper: Stepper,
    prompt: Tensor,
    decoding: Decoding,
    text: TextConfig,
    *,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> list[list[Generated]]:
    """Texts after prompt [I, P]: per image `decoding.num_captions` of them, best first (beam) or as drawn.

    Sampling takes `seeds` (one per image: a text depends on its image's seed alone), or one `generator` for the whole
    batch (the original's draws: as long as any row goes on, every row draws).
    """
    if prompt.shape[1] >= decoding.max_length:
        raise ConfigError(f"max_length {decoding.max_length}: the prompt alone has {prompt.shape[1]} ids")
    if isinstance(decoding, Beam):
        return _BeamSearch(stepper, prompt, decoding, text).run()
    return _sample(stepper, prompt, decoding, text, seeds, generator)


def process(scores: Tensor, ids: Tensor, decoding: Decoding, end: int) -> Tensor:
    """Repetition penalty, then minimum length, then blocked words: scores [R, V] of rows ids [R, t], in place."""
    if decoding.repetition_penalty != 1.0:
        seen = scores.gather(1, ids)
        penalty = decoding.repetition_penalty
        scores.scatter_(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))
    if ids.shape[1] < decoding.min_length:
        scores[:, end] = float("-inf")
    if decoding.no_repeat_ngram or decoding.banned:
        for row, blocked in enumerate(_blocked(ids.tolist(), decoding)):
            scores[row, blocked] = float("-inf")
    return scores


def _blocked(rows: list[list[int]], decoding: Decoding) -> list[list[int]]:
    """For each row the ids that would repeat an n-gram or complete a banned sequence."""
    size, result = decoding.no_repeat_ngram, []
    for row in rows:
        blocked = [words[-1] for words in decoding.banned if tuple(row[len(row) - len(words) + 1 :]) == words[:-1]]
        if size and len(row) >= size - 1:
            last = row[len(row) - size + 1 :]
            blocked += [row[i + size - 1] for i in range(len(row) - size + 1) if row[i : i + size - 1] == last]
        result.append(blocked)
    return result


def nucleus_probs(scores: Tensor, top_p: float, top_k: int) -> Tensor:
    """Chances [R, V] after top-k and then top-p; the token that crosses `top_p` stays in."""
    if 0 < top_k < scores.shape[1]:
        worst = scores.topk(top_k, dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < worst, float("-inf"))
    if top_p < 1.0:
        ordered, places = scores.sort(dim=1, descending=True)
        above = ordered.softmax(dim=1).cumsum(dim=1) > top_p
        above = torch.cat([torch.zeros_like(above[:, :1]), above[:, :-1]], dim=1)
        scores = scores.masked_fill(above.scatter(1, places, above), float("-inf"))
    return scores.softmax(dim=1)


def _row_generators(seeds: Sequence[int] | None, images: int, copies: int) -> list[torch.Generator]:
    """One generator a row, from its image's seed and its number among the image's rows."""
    seeds = range(images) if seeds is None else seeds
    return [torch.Generator().manual_seed((s * 1_000_003 + c) % 2**63) for s in seeds for c in range(copies)]


def _draw(probs: Tensor, generators: list[torch.Generator]) -> Tensor:
    rows = probs.cpu()
    return torch.cat([torch.multinomial(p, 1, generator=g) for p, g in zip(rows, generators, strict=True)])


def _sample(
    stepper: Stepper,
    prompt: Tensor,
    decoding: Greedy | Nucleus,
    text: TextConfig,
    seeds: Sequence[int] | None,
    generator: torch.Generator | None,
) -> list[list[Generated]]:
    images, copies = len(prompt), decoding.num_captions
    scores = stepper.start(prompt, decoding.max_length).repeat_interleave(copies, 0)
    if copies > 1:
        stepper.widen(copies)
    ids = prompt.repeat_interleave(copies, 0)
    generators = _row_generators(seeds, images, copies)
    results: list[list[Generated]] = [[] for _ in range(images * copies)]
    rows = torch.arange(images * copies)  # which result each live row writes
    logprobs = torch.zeros(len(rows), 0)
    done = torch.zeros(len(rows), dtype=torch.bool)
    while True:
        lse = scores.logsumexp(dim=1)
        raw = scores.clone()
        processed = process(scores, ids, decoding, text.sep_id)
        if isinstance(decoding, Greedy):
            new = processed.argmax(dim=1)
        else:
            probs = nucleus_probs(processed / decoding.temperature, decoding.top_p, decoding.top_k)
            if generator is not None:
                new = torch.multinomial(probs, 1, generator=generator)[:, 0]
            else:
                new = _draw(probs, [generators[i] for i in rows.tolist()]).to(ids.device)
        chosen = raw.gather(1, new[:, None])[:, 0] - lse
        new = new.masked_fill(done.to(new.device), text.pad_id)
        ids = torch.cat([ids, new[:, None]], dim=1)
        logprobs = torch.cat([logprobs, chosen.cpu()[:, None]], dim=1)
        ended = (new == text.sep_id).cpu() | done
        last = ids.shape[1] == decoding.max_length
        for row in torch.nonzero((ended | last) & ~done)[:, 0].tolist():
            found = Generated(tuple(ids[row, prompt.shape[1] :].tolist()), tuple(logprobs[row].tolist()))
            results[int(rows[row])].append(found)
        done = ended
        if last or bool(done.all()):
            break
        live = ~done.view(-1, copies).all(dim=1)
        if generator is None and not bool(live.all()):
            images_left = torch.nonzero(live)[:, 0]
            left = (images_left[:, None] * copies + torch.arange(copies)).flatten()
            stepper.keep(images_left.to(ids.device), left.to(ids.device))
            rows, done, logprobs, ids = rows[left], done[left], logprobs[left], ids[left.to(ids.device)]
        scores = stepper.step(ids[:, -1])
    flat = [row[0] for row in results]
    return [flat[i : i + copies] for i in range(0, len(flat), copies)]


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

    def add(self, total: float, length: int, ended: bool, generated: Generated) -> None:
        norm = self.norm(total, length, ended)
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


class _BeamSearch:
    def __init__(self, stepper: Stepper, prompt: Tensor, decoding: Beam, text: TextConfig) -> None:
        self.stepper, self.decoding, self.end = stepper, decoding, text.sep_id
        self.prompt, self.n = prompt.shape[1], decoding.num_beams
        self.results = [_Hypotheses(self.n, decoding, self.prompt) for _ in range(len(prompt))]
        self.images = list(range(len(prompt)))  # which result each live image writes
        self.ids = prompt.repeat_interleave(self.n, 0)
        self.totals = torch.full((len(prompt), self.n), -1e9, device=prompt.device)
        self.totals[:, 0] = 0
        self.logprobs = torch.zeros(len(self.ids), 0)
        self.scores = stepper.start(prompt, decoding.max_length).repeat_interleave(self.n, 0)
        stepper.widen(self.n)

    def run(self) -> list[list[Generated]]:
        while True:
            live = self.advance()
            if not live or self.ids.shape[1] == self.decoding.max_length:
                break
            self.scores = self.stepper.step(self.ids[:, -1])
        for image, result in enumerate(self.images):
            for row in range(image * self.n, (image + 1) * self.n):
                total = float(self.totals[image, row - image * self.n])
                self.results[result].add(total, self.ids.shape[1], False, self.generated(row))
        return [hypotheses.best(self.decoding.num_captions) for hypotheses in self.results]

    def generated(self, row: int, end_logprob: float | None = None) -> Generated:
        ids, logprobs = self.ids[row, self.prompt :].tolist(), self.logprobs[row].tolist()
        if end_logprob is not None:
            ids, logprobs = [*ids, self.end], [*logprobs, end_logprob]
        return Generated(tuple(ids), tuple(logprobs))

    def candidates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The 2n best continuations of each image, best first: totals, beams, ids, log-probabilities."""
        raw = self.scores - self.scores.logsumexp(dim=1, keepdim=True)
        logp = process(raw.clone(), self.ids, self.decoding, self.end) + self.totals.view(-1, 1)
        best, tokens = logp.topk(2 * self.n, dim=1)  # of each row, then of each image
        best, tokens = best.view(-1, self.n * 2 * self.n), tokens.view(-1, self.n * 2 * self.n)
        totals, places = best.topk(2 * self.n, dim=1)
        beams, tokens = places // (2 * self.n), tokens.gather(1, places)
        rows = torch.arange(len(totals), device=beams.device)[:, None] * self.n + beams
        return totals, beams, tokens, raw[rows, tokens]

    def advance(self) -> bool:
        """One token for every live image; finished images leave. Returns whether any is left."""
        totals, beams, tokens, logprobs = (x.cpu() for x in self.candidates())
        length = self.ids.shape[1]
        rows, ids, chosen_totals, chosen_logprobs, left = [], [], [], [], []
        for image, result in enumerate(self.images):
            hypotheses, chosen = self.results[result], []
            ranked = zip(*(x[image].tolist() for x in (totals, beams, tokens, logprobs)), strict=True)
            for place, (total, beam, token, logprob) in enumerate(ranked):
                row = image * self.n + beam
                if token == self.end:
                    if place < self.n:
                        hypotheses.add(total, length, True, self.generated(row, logprob))
                else:
                    chosen.append((row, token, total, logprob))
                if len(chosen) == self.n:
                    break
            if hypotheses.is_done(float(totals[image, 0]), length):
                continue
            left.append(image)
            for row, token, total, logprob in chosen:
                rows.append(row)
                ids.append(token)
                chosen_totals.append(total)
                chosen_logprobs.append(logprob)
        if left:
            self._continue(left, rows, ids, chosen_totals, chosen_logprobs)
        self.images = [self.images[i] for i in left]
        return bool(left)

    def _continue(
        self, left: list[int], rows: list[int], ids: list[int], totals: list[float], logprobs: list[float]
    ) -> None:
        index = torch.tensor(rows)
        where = index.to(self.ids.device)
        if len(left) < len(self.images):
            self.stepper.keep(torch.tensor(left, device=where.device), where)
        else:
            self.stepper.reorder(where)
        self.ids = torch.cat([self.ids[where], torch.tensor(ids, device=where.device)[:, None]], dim=1)
        self.totals = torch.tensor(totals, device=where.device).view(len(left), self.n)
        self.logprobs = torch.cat([self.logprobs[index], torch.tensor(logprobs)[:, None]], dim=1)
