"""Searches that read nothing back find the texts of the other searches, on a CPU and recorded as graphs."""

from __future__ import annotations

import pytest
import torch

from blip.model import device_search
from blip.model.generation import generate, uniform_noise
from blip.model.stepper import Stepper
from blip_lite.beam_search import Generated
from blip_lite.config import TextConfig
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus
from tests.lite.test_beam_search import TEXT, Tensors

PROMPT = torch.tensor([[22, 5], [22, 6], [22, 6], [22, 9]])
SEEDS = [3, 1, 4, 1]
DECODINGS: list[Decoding] = [
    Greedy(),
    Greedy(min_length=1, max_length=9),
    Greedy(repetition_penalty=1.7),
    Nucleus(),
    Nucleus(num_captions=3, top_k=5, temperature=1.5, min_length=1),
    Nucleus(top_p=1.0, top_k=0, repetition_penalty=1.0),
    Beam(),
    Beam(num_beams=1),
    Beam(num_beams=5, num_captions=4, min_length=1),
    Beam(repetition_penalty=1.4),
    Beam(length_penalty=-1.0, min_length=1),
    Beam(length_norm="new", length_penalty=2.0),
    Beam(early_stopping=True, min_length=1),
    Beam(num_beams=3, max_length=4, min_length=1),
    Beam(num_beams=3, max_length=3, min_length=1, num_captions=3),
]


def on_device(stepper: Stepper, decoding: Decoding, text: TextConfig = TEXT) -> list[list[Generated]]:
    noise = uniform_noise(SEEDS, decoding) if isinstance(decoding, Nucleus) else None
    search = device_search.start(stepper, PROMPT, decoding, text, noise)
    while search.length < decoding.max_length and not search.finished():
        search.advance()
    return device_search.texts_of(search.outputs(), decoding, text.sep_id)


class Coarse(Tensors):
    """Scores of few different values, so that texts have equal scores."""

    def __getattr__(self, name: str) -> object:
        call = super().__getattr__(name)
        return (lambda *a: call(*a).round()) if name in ("start", "step") else call


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_texts_equal_those_of_the_other_searches(decoding: Decoding, seed: int) -> None:
    expected = generate(Tensors(seed), PROMPT, decoding, TEXT, seeds=SEEDS)
    assert on_device(Tensors(seed), decoding) == expected


@pytest.mark.parametrize("decoding", [d for d in DECODINGS if isinstance(d, Beam)], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_texts_of_equal_scores_have_the_same_order(decoding: Decoding, seed: int) -> None:
    expected = generate(Coarse(seed), PROMPT, decoding, TEXT)
    assert on_device(Coarse(seed), decoding) == expected
