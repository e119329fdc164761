"""Greedy search, sampling and beam search over a `Stepper`; same ids as the original (transformers 4.15)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from blip.model.decoding import nucleus, nucleus_probs, process
from blip.model.stepper import Stepper
from blip.runtime import mixed_bits
from blip_lite.arrays import Floats, Ids
from blip_lite.beam_search import BeamSearch, Candidates, Generated, check_lengths
from blip_lite.config import TextConfig
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus


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
    """Generate `decoding.num_captions` texts per image after prompt [I, P], best first (beam search) or as drawn.

    Sampling uses `seeds`, one per image (None: all 0): a text depends only on its image, its seed and its index among
    the image's texts. Or one `generator` for the whole batch, with the same draws as the original.
    Raises ConfigError if the prompt leaves no room or the model has fewer positions than `max_length`.
    """
    check_lengths(prompt.shape[1], decoding, text)
    if not len(prompt):
        return []
    if isinstance(decoding, Beam):
        adapter = _NumpyStepper(stepper, prompt.device)
        return BeamSearch(adapter, _candidates, prompt.cpu().numpy(), decoding, text.sep_id).run()
    noise = None
    if isinstance(decoding, Nucleus) and generator is None:
        noise = uniform_noise([0] * len(prompt) if seeds is None else seeds, decoding)
    return RowSearch(stepper, prompt, decoding, text, noise, generator).run()


class RowSearch:
    """Greedy search and sampling: rows are independent; `run` retires an image when all of its rows have ended.

    noise: `uniform_noise` of the images, for sampling without a generator. static: read nothing back from the device,
    so that shapes and kernels of `advance` depend on the length alone (`blip.model.device_search`).
    """

    def __init__(
        self,
        stepper: Stepper,
        prompt: Tensor,
        decoding: Greedy | Nucleus,
        text: TextConfig,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        static: bool = False,
    ) -> None:
        self.stepper, self.decoding, self.generator, self.static = stepper, decoding, generator, static
        self.end, self.pad, self.prompt = text.sep_id, text.pad_id, prompt.shape[1]
        self.copies = decoding.num_captions
        scores = stepper.start(prompt, decoding.max_length).repeat_interleave(self.copies, 0)
        self.scores: Tensor | None = scores  # of the next ids, if they are computed
        if self.copies > 1:
            stepper.expand(self.copies)
        self.ids = prompt.repeat_interleave(self.copies, 0)
        self.logprobs = scores.new_zeros(len(self.ids), 0)
        self.done = torch.zeros(len(self.ids), dtype=torch.bool, device=prompt.device)
        self.indices = torch.arange(len(self.ids), device=prompt.device)  # index in `results` of each live row
        self.results: list[Generated | None] = [None] * len(self.ids)
        self.noise = None if noise is None else noise.to(scores)

    def run(self) -> list[list[Generated]]:
        while True:
            self.advance()
            last = self.ids.shape[1] == self.decoding.max_length
            self.retire_finished(last)
            if last or not len(self.ids):
                break
        texts = [result for result in self.results if result is not None]
        return [texts[i : i + self.copies] for i in range(0, len(texts), self.copies)]

    def advance(self) -> None:
        """Add one id to every live row."""
        scores = self.stepper.step(self.ids[:, -1]) if self.scores is None else self.scores
        self.append(scores, self.choose(scores))
        self.scores = None

    def choose(self, scores: Tensor) -> Tensor:
        """The next id of every live row [R]."""
        scores = process(scores, self.ids, self.decoding, self.end)
        if isinstance(self.decoding, Greedy):
            return scores.argmax(dim=1)
        scores, top_p, top_k = scores / self.decoding.temperature, self.decoding.top_p, self.decoding.top_k
        if self.noise is None:
            assert self.generator is not None, "sampling needs noise or a generator"
            return self.draw_together(nucleus_probs(scores, top_p, top_k), self.generator)
        probs, ids = nucleus(scores, top_p, top_k, static=self.static)
        noise = self.noise[self.indices, self.ids.shape[1] - self.prompt, None]
        column = (probs.cumsum(dim=1) <= noise).sum(dim=1)  # inverse of the distribution function
        column = column.minimum((probs > 0).sum(dim=1) - 1)  # rounding: the sum may be slightly below 1
        return ids.gather(1, column[:, None])[:, 0]

    def draw_together(self, probs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for all rows at once, retired ones included, since the original uses its generator that way."""
        all_rows, indices = torch.zeros(len(self.results), probs.shape[1], dtype=probs.dtype), self.indices.cpu()
        all_rows[:, self.pad] = 1.0
        all_rows[indices] = probs.cpu()
        drawn = torch.multinomial(all_rows.to(generator.device), 1, generator=generator)[:, 0]
        return drawn.cpu()[indices].to(probs.device)

    def append(self, scores: Tensor, new: Tensor) -> None:
        """Add the new id of each live row [R]; padding to rows that have ended."""
        logprob = scores.gather(1, new[:, None]) - scores.logsumexp(dim=1, keepdim=True)
        new = new.masked_fill(self.done, self.pad)
        self.ids = torch.cat([self.ids, new[:, None]], dim=1)
        self.logprobs = torch.cat([self.logprobs, logprob], dim=1)
        self.done = self.done | (new == self.end)

    def retire_finished(self, all_images: bool) -> None:
        """Store the results of images whose rows have all ended and drop their rows."""
        finished = self.done.view(-1, self.copies).all(dim=1) | all_images
        if not bool(finished.any()):
            return
        of_rows = finished.repeat_interleave(self.copies)
        texts = texts_of_rows(self.ids[of_rows, self.prompt :], self.logprobs[of_rows], self.done[of_rows], self.end)
        for index, text in zip(self.indices[of_rows].tolist(), texts, strict=True):
            self.results[index] = text
        images, rows = torch.nonzero(~finished)[:, 0], torch.nonzero(~of_rows)[:, 0]
        if len(rows):
            self.stepper.keep(images, rows)
        self.ids, self.logprobs = self.ids[rows], self.logprobs[rows]
        self.done, self.indices = self.done[rows], self.indices[rows]


def texts_of_rows(ids: Tensor, logprobs: Tensor, done: Tensor, end: int) -> list[Generated]:
    """Texts of rows with new ids [R, t], padded after the end, and their log-probabilities; done [R]: have ended."""
    texts = []
    for row, values, ended in zip(ids.tolist(), logprobs.tolist(), done.tolist(), strict=True):
        length = row.index(end) + 1 if ended else len(row)
        texts.append(Generated(tuple(row[:length]), tuple(values[:length])))
    return texts


def uniform_noise(seeds: Sequence[int], decoding: Nucleus) -> Tensor:
    """Uniform noise [I * n, max_length] for n texts per image, each row from its image's seed and its index there."""
    copies, length = decoding.num_captions, decoding.max_length
    generators = (torch.Generator().manual_seed(mixed_bits(s, c)) for s in seeds for c in range(copies))
    return torch.stack([torch.rand(length, generator=generator) for generator in generators])


class _NumpyStepper:
    """Adapter of a stepper to the beam search of blip_lite, whose ids are numpy arrays."""

    def __init__(self, stepper: Stepper, device: torch.device) -> None:
        self.stepper, self.device = stepper, device

    def start(self, prompt: Ids, max_length: int) -> Tensor:
        return self.stepper.start(self.tensor(prompt), max_length)

    def expand(self, times: int) -> None:
        self.stepper.expand(times)

    def step(self, ids: Ids) -> Tensor:
        return self.stepper.step(self.tensor(ids))

    def reorder(self, rows: Ids) -> None:
        self.stepper.reorder(self.tensor(rows))

    def keep(self, images: Ids, rows: Ids) -> None:
        self.stepper.keep(self.tensor(images), self.tensor(rows))

    def tensor(self, indices: Ids) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(indices)).to(self.device)


def _candidates(scores: Tensor, ids: Ids, totals: Floats, decoding: Beam, end: int, k: int) -> Candidates:
    """`best_continuations` of arrays: only the k best of each image are copied from the device of the scores."""
    on_device = torch.from_numpy(ids).to(scores.device), torch.from_numpy(totals).to(scores)
    return Candidates(*(x.tolist() for x in best_continuations(scores, *on_device, decoding, end, k)))


def best_continuations(
    scores: Tensor, ids: Tensor, totals: Tensor, decoding: Beam, end: int, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`blip_lite.beam_search.candidates` with tensors: totals, beams, ids and log-probabilities, each [I, k]."""
    images, level = len(totals), scores.logsumexp(dim=1, keepdim=True)
    if decoding.repetition_penalty != 1.0:
        scores, level = scores - level, torch.zeros_like(level)
    best, tokens = process(scores, ids, decoding, end).topk(min(k, scores.shape[1]), dim=1)
    logprobs = (scores.gather(1, tokens) - level).view(images, -1)
    rows = (best - level + totals.view(-1, 1)).view(images, -1)
    best_totals, indices = rows.topk(min(k, rows.shape[1]), dim=1)
    new, new_logprobs = (x.gather(1, indices) for x in (tokens.view(images, -1), logprobs))
    return best_totals, indices // tokens.shape[1], new, new_logprobs
