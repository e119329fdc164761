"""Searches on numpy equal those on torch, which equal the original (tests/model/test_generation.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from blip.model import generation
from blip_lite.arrays import Floats, Ids
from blip_lite.beam_search import generate
from blip_lite.config import TextConfig
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus
from blip_lite.errors import ConfigError, UsageError

TEXT = TextConfig(
    vocab_size=24, width=8, num_heads=2, max_length=32, unk_id=1, cls_id=2, sep_id=3, mask_id=4, dec_id=22, enc_id=23
)
DECODINGS: list[Decoding] = [
    Greedy(),
    Greedy(min_length=1, max_length=9),
    Greedy(repetition_penalty=1.7, no_repeat_ngram=2),
    Beam(),
    Beam(num_beams=1),
    Beam(num_beams=5, num_captions=4, min_length=1),
    Beam(repetition_penalty=1.4),
    Beam(length_norm="new", length_penalty=2.0),
    Beam(early_stopping=True, min_length=1),
    Beam(no_repeat_ngram=2, banned=((7,), (4, 5))),
    Beam(num_beams=3, max_length=4, min_length=1),
]


class Table:
    """A stepper whose random scores depend on the image and its ids so far, so that mixed-up rows are noticed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def start(self, prompt: Ids, max_length: int) -> Floats:
        self.rows = [(image, *row) for image, row in enumerate(prompt.tolist())]
        return self.scores()

    def scores(self) -> Floats:
        draw = [np.random.default_rng([self.seed, *row]).normal(size=TEXT.vocab_size) for row in self.rows]
        return 2 * np.array(draw, dtype=np.float32)

    def expand(self, times: int) -> None:
        self.rows = [row for row in self.rows for _ in range(times)]

    def step(self, ids: Ids) -> Floats:
        self.rows = [(*row, i) for row, i in zip(self.rows, ids.tolist(), strict=True)]
        return self.scores()

    def reorder(self, rows: Ids) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]

    def keep(self, images: Ids, rows: Ids) -> None:
        self.reorder(rows)


class Tensors:
    """The same stepper for the searches on torch."""

    def __init__(self, seed: int) -> None:
        self.table = Table(seed)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            arrays = [a.numpy() if isinstance(a, torch.Tensor) else a for a in arguments]
            result = getattr(self.table, name)(*arrays)
            return None if result is None else torch.from_numpy(result)

        return call


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_ids_and_scores_equal_those_of_torch(decoding: Decoding, seed: int) -> None:
    prompt = np.array([[22, 5], [22, 6], [22, 6], [22, 9]])
    ours = generate(Table(seed), prompt, decoding, TEXT)
    theirs = generation.generate(Tensors(seed), torch.from_numpy(prompt), decoding, TEXT)
    assert [[text.ids for text in row] for row in ours] == [[text.ids for text in row] for row in theirs]
    for our_row, their_row in zip(ours, theirs, strict=True):
        for a, b in zip(our_row, their_row, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


@pytest.mark.parametrize("decoding", [Greedy(), Beam(num_captions=2)], ids=str)
def test_results_do_not_depend_on_other_images(decoding: Decoding) -> None:
    class Alone(Table):
        def start(self, prompt: Ids, max_length: int) -> Floats:
            self.rows = [(2, *row) for row in prompt.tolist()]
            return self.scores()

    prompt = np.array([[22, 5], [22, 6], [22, 7]])
    together = generate(Table(1), prompt, decoding, TEXT)
    alone = generate(Alone(1), prompt[2:], decoding, TEXT)
    assert [text.ids for text in alone[0]] == [text.ids for text in together[2]]


def test_no_images_return_no_texts() -> None:
    assert generate(Table(0), np.zeros((0, 2), dtype=np.int64), Beam(), TEXT) == []


def test_unsupported_decodings_are_refused() -> None:
    prompt = np.array([[22, 5]])
    with pytest.raises(UsageError, match="sampling is not supported with onnxruntime"):
        generate(Table(0), prompt, Nucleus(), TEXT)
    with pytest.raises(ConfigError, match="must exceed the 2 ids of the prompt"):
        generate(Table(0), prompt, Greedy(max_length=2, min_length=1), TEXT)
    with pytest.raises(ConfigError, match="the model has 32 positions"):
        generate(Table(0), prompt, Greedy(max_length=33), TEXT)
