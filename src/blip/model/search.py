"""Greedy search, sampling and beam search over a `Stepper`, id for id as the original's (transformers 4.15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blip.model.decoding import Beam, Decoding, Greedy, Nucleus, nucleus, nucleus_probs, process
from blip.model.stepper import Stepper
from blip.runtime import mixed_bits
from blip_lite.config import TextConfig
from blip_lite.errors import ConfigError


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

    Sampling takes `seeds`, one per image (None: all 0): a text depends on its image, its seed and its number among the
    image's texts alone. Or one `generator` for the whole batch: the original's draws, ids equal for equal seeds.
    Raises ConfigError when the prompt leaves no room or the model has fewer positions than `max_length`.
    """
    if prompt.shape[1] >= decoding.max_length:
        raise ConfigError(f"max_length {decoding.max_length}: the prompt alone has {prompt.shape[1]} ids")
    if decoding.max_length > text.max_length:
        raise ConfigError(f"max_length {decoding.max_length}: the model has {text.max_length} positions")
    if not len(prompt):
        return []
    if isinstance(decoding, Beam):
        return _BeamSearch(stepper, prompt, decoding, text).run()
    return _RowSearch(stepper, prompt, decoding, text, seeds, generator).run()


class _RowSearch:
    """Greedy search and sampling: every row goes its own way; an image leaves when its last row has ended."""

    def __init__(
        self,
        stepper: Stepper,
        prompt: Tensor,
        decoding: Greedy | Nucleus,
        text: TextConfig,
        seeds: Sequence[int] | None,
        generator: torch.Generator | None,
    ) -> None:
        self.stepper, self.decoding, self.generator = stepper, decoding, generator
        self.end, self.pad, self.prompt = text.sep_id, text.pad_id, prompt.shape[1]
        self.copies = decoding.num_captions
        self.scores = stepper.start(prompt, decoding.max_length).repeat_interleave(self.copies, 0)
        if self.copies > 1:
            stepper.widen(self.copies)
        self.ids = prompt.repeat_interleave(self.copies, 0)
        self.logprobs = self.scores.new_zeros(len(self.ids), 0)
        self.done = torch.zeros(len(self.ids), dtype=torch.bool)
        self.numbers = torch.arange(len(self.ids))  # which result each live row writes
        self.results: list[Generated | None] = [None] * len(self.ids)
        if isinstance(decoding, Nucleus) and generator is None:
            seeds = [0] * len(prompt) if seeds is None else seeds
            self.noise = _noise(seeds, self.copies, decoding.max_length).to(self.scores)

    def run(self) -> list[list[Generated]]:
        while True:
            self.append(self.choose())
            last = self.ids.shape[1] == self.decoding.max_length
            self.leave(last)
            if last or not len(self.ids):
                break
            self.scores = self.stepper.step(self.ids[:, -1])
        found = [result for result in self.results if result is not None]
        return [found[i : i + self.copies] for i in range(0, len(found), self.copies)]

    def choose(self) -> Tensor:
        """The next id of every live row [R]."""
        scores = process(self.scores, self.ids, self.decoding, self.end)
        if isinstance(self.decoding, Greedy):
            return scores.argmax(dim=1)
        scores, top_p, top_k = scores / self.decoding.temperature, self.decoding.top_p, self.decoding.top_k
        if self.generator is not None:
            return self.draw_together(nucleus_probs(scores, top_p, top_k), self.generator)
        chances, ids = nucleus(scores, top_p, top_k)
        noise = self.noise[self.numbers.to(ids.device), self.ids.shape[1] - self.prompt, None]
        place = (chances.cumsum(dim=1) <= noise).sum(dim=1)  # inverse of the distribution function
        place = place.minimum((chances > 0).sum(dim=1) - 1)  # rounding: the sum may end just below 1
        return ids.gather(1, place[:, None])[:, 0]

    def draw_together(self, chances: Tensor, generator: torch.Generator) -> Tensor:
        """One draw for all rows, those that have left included: that is how the original uses its generator."""
        everyone = torch.zeros(len(self.results), chances.shape[1], dtype=chances.dtype)
        everyone[:, self.pad] = 1.0
        everyone[self.numbers] = chances.cpu()
        drawn = torch.multinomial(everyone.to(generator.device), 1, generator=generator)[:, 0]
        return drawn.cpu()[self.numbers].to(chances.device)

    def append(self, new: Tensor) -> None:
        logprob = self.scores.gather(1, new[:, None]) - self.scores.logsumexp(dim=1, keepdim=True)
        new = new.masked_fill(self.done.to(new.device), self.pad)
        self.ids = torch.cat([self.ids, new[:, None]], dim=1)
        self.logprobs = torch.cat([self.logprobs, logprob], dim=1)
        self.done = self.done | (new == self.end).cpu()

    def leave(self, all_of_them: bool) -> None:
        """Images whose rows have all ended write their results and go."""
        gone = self.done.view(-1, self.copies).all(dim=1) | all_of_them
        if not bool(gone.any()):
            return
        ids, logprobs = self.ids[:, self.prompt :].tolist(), self.logprobs.tolist()
        for row in torch.nonzero(gone.repeat_interleave(self.copies))[:, 0].tolist():
            length = ids[row].index(self.end) + 1 if self.done[row] else len(ids[row])
            self.results[int(self.numbers[row])] = Generated(tuple(ids[row][:length]), tuple(logprobs[row][:length]))
        images = torch.nonzero(~gone)[:, 0]
        rows = torch.nonzero((~gone).repeat_interleave(self.copies))[:, 0]
        where = rows.to(self.ids.device)
        if len(rows):
            self.stepper.keep(images.to(where.device), where)
        self.ids, self.logprobs = self.ids[where], self.logprobs[where]
        self.done, self.numbers = self.done[rows], self.numbers[rows]


def _noise(seeds: Sequence[int], copies: int, length: int) -> Tensor:
    """Uniform numbers [I * copies, length], each row from its image's seed and its number among the image's rows."""
    generators = (torch.Generator().manual_seed(mixed_bits(s, c)) for s in seeds for c in range(copies))
    return torch.stack([torch.rand(length, generator=generator) for generator in generators])


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


class _BeamSearch:
    def __init__(self, stepper: Stepper, prompt: Tensor, decoding: Beam, text: TextConfig) -> None:
        self.stepper, self.decoding, self.end = stepper, decoding, text.sep_id
        self.prompt, self.n = prompt.shape[1], decoding.num_beams
        self.results = [_Hypotheses(self.n, decoding, self.prompt) for _ in range(len(prompt))]
        self.images = list(range(len(prompt)))  # which result each live image writes
        self.ids = prompt.repeat_interleave(self.n, 0)
        self.scores = stepper.start(prompt, decoding.max_length).repeat_interleave(self.n, 0)
        stepper.widen(self.n)
        self.totals = self.scores.new_full((len(prompt), self.n), -1e9)  # so that the first step takes beam 0's
        self.totals[:, 0] = 0
        self.logprobs = torch.zeros(len(self.ids), 0)

    def run(self) -> list[list[Generated]]:
        while True:
            live = self.advance()
            if not live or self.ids.shape[1] == self.decoding.max_length:
                break
            self.scores = self.stepper.step(self.ids[:, -1])
        totals = self.totals.tolist()
        for image, result in enumerate(self.images):
            for beam in range(self.n):
                self.finish(result, image * self.n + beam, totals[image][beam])
        return [hypotheses.best(self.decoding.num_captions) for hypotheses in self.results]

    def finish(self, result: int, row: int, total: float, end_logprob: float | None = None) -> None:
        """A live row becomes a hypothesis of its image, ended by the end token or by the length."""
        ids, logprobs = self.ids[row, self.prompt :].tolist(), self.logprobs[row].tolist()
        ended = end_logprob is not None
        if end_logprob is not None:
            ids, logprobs = [*ids, self.end], [*logprobs, end_logprob]
        norm = self.results[result].norm(total, self.ids.shape[1], ended)
        self.results[result].add(norm, Generated(tuple(ids), tuple(logprobs), norm))

    def candidates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The 2n best continuations of each image, best first: totals, beams, ids, log-probabilities, each [I, 2n].

        Every row's 2n best are among them if anything of the row is; only those are turned into log-probabilities.
        """
        k, images = 2 * self.n, len(self.images)
        level = self.scores.logsumexp(dim=1, keepdim=True)
        if self.decoding.repetition_penalty != 1.0:  # which, unlike the rest, depends on the level of the scores
            self.scores, level = self.scores - level, torch.zeros_like(level)
        best, tokens = process(self.scores, self.ids, self.decoding, self.end).topk(k, dim=1)
        logprobs = (self.scores.gather(1, tokens) - level).view(images, -1)
        totals = (best - level + self.totals.view(-1, 1)).view(images, -1)
        totals, places = totals.topk(k, dim=1)
        return totals, places // k, tokens.view(images, -1).gather(1, places), logprobs.gather(1, places)

    def advance(self) -> bool:
        """One token for every live image; finished images leave. Returns whether any is left."""
        columns = [x.tolist() for x in self.candidates()]
        length, left, chosen = self.ids.shape[1], [], []
        for image, result in enumerate(self.images):
            ranked = list(zip(*(column[image] for column in columns), strict=True))
            going_on = self.sort_out(image, result, ranked)
            # original: the best candidate, ended or not, says if better can come; newer: the best of those going on
            best = ranked[0][0] if self.decoding.length_norm == "total" else going_on[0][0]
            if not self.results[result].is_done(best, length):
                left.append(image)
                chosen += going_on
        if left:
            self.go_on(left, chosen)
        self.images = [self.images[i] for i in left]
        return bool(left)

    def sort_out(
        self, image: int, result: int, ranked: list[tuple[float, int, int, float]]
    ) -> list[tuple[float, int, int, float]]:
        """Of candidates (total, beam, id, log-probability) those that end become hypotheses; n others go on."""
        going_on: list[tuple[float, int, int, float]] = []
        for place, (total, beam, token, logprob) in enumerate(ranked):
            row = image * self.n + beam
            if token != self.end:
                going_on.append((total, row, token, logprob))
            elif place < self.n:
                self.finish(result, row, total, logprob)
            if len(going_on) == self.n:
                break
        return going_on

    def go_on(self, left: list[int], chosen: list[tuple[float, int, int, float]]) -> None:
        totals, rows, ids, logprobs = zip(*chosen, strict=True)
        index = torch.tensor(rows)
        where = index.to(self.ids.device)
        if len(left) < len(self.images):
            self.stepper.keep(torch.tensor(left, device=where.device), where)
        else:
            self.stepper.reorder(where)
        self.ids = torch.cat([self.ids[where], torch.tensor(ids, device=where.device)[:, None]], dim=1)
        self.totals = self.totals.new_tensor(totals).view(len(left), self.n)
        self.logprobs = torch.cat([self.logprobs[index], torch.tensor(logprobs)[:, None]], dim=1)
