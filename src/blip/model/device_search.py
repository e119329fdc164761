"""Searches that read nothing back from the device: no step waits for it, and steps can be recorded as CUDA graphs.

Unlike in `blip.model.generation`, finished images stay in the batch, so shapes depend on the length of the ids alone.
The texts are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from blip.model.generation import RowSearch, best_continuations, texts_of_rows
from blip.model.stepper import Stepper
from blip_lite.beam_search import Generated
from blip_lite.config import TextConfig
from blip_lite.decoding import Beam, Decoding

MAX_ROWS = 16  # per image; of more rows, finished ones are better dropped

Outputs = tuple[Tensor, ...]


class DeviceSearch(ABC):
    """A search of all images of a batch at once."""

    ids: Tensor  # [R, length], prompt included
    done: Tensor  # bool, of rows or of images

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def finished(self) -> Tensor:
        """Return whether further ids change no text: bool, on the device."""
        return self.done.all()

    @abstractmethod
    def advance(self) -> None:
        """Add one id to every row."""

    @abstractmethod
    def outputs(self) -> Outputs:
        """Return the texts so far as tensors, for `texts_of`."""


def supports(decoding: Decoding) -> bool:
    """Whether these searches have all settings of a decoding: blocked ids are determined on the host."""
    rows = decoding.num_beams if isinstance(decoding, Beam) else decoding.num_captions
    return rows <= MAX_ROWS and not decoding.no_repeat_ngram and not decoding.banned


def start(stepper: Stepper, prompt: Tensor, decoding: Decoding, text: TextConfig, noise: Tensor | None) -> DeviceSearch:
    """Return a search after prompt [I, P]. noise: `blip.model.generation.uniform_noise`, for sampling."""
    if isinstance(decoding, Beam):
        return DeviceBeamSearch(stepper, prompt, decoding, text.sep_id)
    return DeviceRowSearch(stepper, prompt, decoding, text, noise, static=True)


def texts_of(outputs: Outputs, decoding: Decoding, end: int) -> list[list[Generated]]:
    """Texts of each image, best first (beam search) or as drawn."""
    if isinstance(decoding, Beam):
        return _best_hypotheses(outputs, decoding.num_captions)
    ids, logprobs, done = outputs
    texts, count = texts_of_rows(ids, logprobs, done, end), decoding.num_captions
    return [texts[i : i + count] for i in range(0, len(texts), count)]


class DeviceRowSearch(RowSearch, DeviceSearch):
    """Greedy search and sampling."""

    def outputs(self) -> Outputs:
        return self.ids[:, self.prompt :], self.logprobs, self.done


class DeviceBeamSearch(DeviceSearch):
    """`blip_lite.beam_search.BeamSearch` as tensor operations, with its rules for equal scores.

    The hypotheses of an image are stored newest first; a place without one has length 0 and score -inf.
    """

    def __init__(self, stepper: Stepper, prompt: Tensor, decoding: Beam, end: int) -> None:
        self.stepper, self.decoding, self.end = stepper, decoding, end
        self.prompt, self.beams = prompt.shape[1], decoding.num_beams
        scores = stepper.start(prompt, decoding.max_length)
        self.scores: Tensor | None = scores  # of the next ids, if they are computed
        self.width = 1  # rows per image: 1 until the first step has chosen the beams
        self.ids = prompt
        self.totals, self.logprobs = scores.new_zeros(len(prompt), 1), scores.new_zeros(len(prompt), 0)
        self.done = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        places = (len(prompt), self.beams)
        self.norms = scores.new_full(places, -torch.inf, dtype=torch.float64)
        self.lengths = prompt.new_zeros(places)
        self.texts = prompt.new_zeros(*places, decoding.max_length - self.prompt)
        self.text_logprobs = scores.new_zeros(self.texts.shape)

    def outputs(self) -> Outputs:
        return self.norms, self.lengths, self.texts, self.text_logprobs

    def advance(self) -> None:
        scores = self.stepper.step(self.ids[:, -1]) if self.scores is None else self.scores
        self.scores = None
        totals, beams, new, logprobs = best_continuations(
            scores, self.ids, self.totals, self.decoding, self.end, 2 * self.beams
        )
        rows, ended = self.rows(beams), new == self.end
        self.add(*(x[:, : self.beams] for x in (rows, totals, ended, logprobs)))
        rank = torch.arange(new.shape[1], device=new.device)
        others = (rank + ended * len(rank)).topk(self.beams, dim=1, largest=False).indices  # best first
        best = totals[:, 0] if self.decoding.length_norm == "total" else totals.gather(1, others)[:, 0]
        self.check_done(best)
        self.advance_beams(*(x.gather(1, others) for x in (rows, totals, new, logprobs)))
        if self.length == self.decoding.max_length:
            all_beams = torch.arange(self.beams, device=new.device).expand(self.totals.shape)
            self.add(self.rows(all_beams), self.totals, torch.ones_like(all_beams, dtype=torch.bool), None)

    def rows(self, beams: Tensor) -> Tensor:
        """Rows of beams [I, k] of each image."""
        return torch.arange(len(beams), device=beams.device)[:, None] * self.width + beams

    def divisor(self, ended: bool) -> float:
        """Divisor of a total for the normalised score of a row that ends at the present length."""
        length = self.length if self.decoding.length_norm == "total" else self.length - self.prompt + ended
        return float(length**self.decoding.length_penalty)

    def add(self, rows: Tensor, totals: Tensor, valid: Tensor, end_logprobs: Tensor | None) -> None:
        """Make valid rows [I, m], best first, hypotheses of the images that are not done; the best of all remain.

        end_logprobs: of the end id that they end with; None = they end by their length.
        """
        ended = end_logprobs is not None
        norms = totals.double() / self.divisor(ended)
        norms = norms.masked_fill(~valid | self.done[:, None], -torch.inf)
        ids, logprobs = self.ids[rows, self.prompt :], self.logprobs[rows]
        if end_logprobs is not None:
            ids = torch.cat([ids, torch.full_like(rows, self.end)[..., None]], dim=2)
            logprobs = torch.cat([logprobs, end_logprobs[..., None]], dim=2)
        lengths = (norms > -torch.inf) * ids.shape[2]
        padding = (0, self.texts.shape[2] - ids.shape[2])
        ids, logprobs = (torch.nn.functional.pad(x, padding) for x in (ids, logprobs))
        # of equal scores: an old one before a new one, the newest of the old, the first of the new
        new, old = rows.shape[1], self.beams
        best = torch.cat([self.norms, norms], dim=1).sort(dim=1, descending=True, stable=True).indices[:, :old]
        place = torch.where(best < old, best + new, old + new - 1 - best).sort(dim=1).values  # newest first
        self.norms, self.lengths, self.texts, self.text_logprobs = (
            _take(torch.cat([x.flip(1), stored], dim=1), place)
            for x, stored in (
                (norms, self.norms),
                (lengths, self.lengths),
                (ids, self.texts),
                (logprobs, self.text_logprobs),
            )
        )

    def check_done(self, best_totals: Tensor) -> None:
        """An image is done if it has all hypotheses and no better one is possible."""
        full = (self.lengths > 0).all(dim=1)
        hopeless = self.norms.amin(dim=1) >= best_totals.double() / self.divisor(True)
        self.done = self.done | (full if self.decoding.early_stopping else full & hopeless)

    def advance_beams(self, rows: Tensor, totals: Tensor, new: Tensor, logprobs: Tensor) -> None:
        """Append the chosen ids [I, n] to the rows that they continue."""
        index = rows.flatten()
        if self.width < self.beams:
            self.stepper.expand(self.beams)
        else:
            self.stepper.reorder(index)
        self.width = self.beams
        self.ids = torch.cat([self.ids[index], new.view(-1, 1)], dim=1)
        self.totals = totals
        self.logprobs = torch.cat([self.logprobs[index], logprobs.view(-1, 1)], dim=1)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """x [I, m, ...] at places [I, n] -> [I, n, ...]."""
    return x.gather(1, places.view(*places.shape, *[1] * (x.dim() - 2)).expand(*places.shape, *x.shape[2:]))


def _best_hypotheses(outputs: Outputs, count: int) -> list[list[Generated]]:
    """The best `count` hypotheses of each image, best first; the newest first of equal scores."""
    results = []
    for norms, lengths, ids, logprobs in zip(*(x.tolist() for x in outputs), strict=True):
        order = sorted(range(len(norms)), key=lambda i: -norms[i])
        best = [i for i in order if lengths[i]][:count]
        results.append(
            [Generated(tuple(ids[i][: lengths[i]]), tuple(logprobs[i][: lengths[i]]), norms[i]) for i in best]
        )
    return results
