"""Texts without padding: the states of each text are those of the text alone, whatever shares its pass."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from blip.model import ragged
from tests.oracle_files import oracle_model, tensors

LENGTHS = torch.tensor([5, 3, 9, 3, 5, 4])
IDS = torch.randint(5, 60, (6, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("images", [None, [0, 0, 0, 0, 0, 0], [2, 0, 0, 3, 2, 0]])
@pytest.mark.parametrize("limit", [1, 12, 1000])
@torch.inference_mode()
def test_states_are_those_of_each_text_alone(limit: int, images: list[int] | None, first_only: bool) -> None:
    model = oracle_model("retrieval")
    embeds = model.encode_image(tensors("inputs")["images"][:4])
    cross = None if images is None else model.encoder.cross_keys_values(embeds)
    owners = None if images is None else torch.tensor(images)
    seen: list[int] = []
    for indices, groups in ragged.passes(IDS, LENGTHS, limit):
        states = ragged.encode(
            model.encoder, groups, cross, None if owners is None else owners[indices], first_only=first_only
        )
        for i, state in zip(indices.tolist(), [row for group in states for row in group], strict=True):
            of_image = None if images is None else model.encoder.cross_keys_values(embeds[images[i] : images[i] + 1])
            alone = model.encoder(IDS[i : i + 1, : LENGTHS[i]], cross=of_image, first_only=first_only)
            assert_close(state[None], alone, atol=1e-5, rtol=1e-5)
            seen.append(i)
    assert sorted(seen) == list(range(6))


@torch.inference_mode()
def test_texts_over_the_only_image_need_no_index() -> None:
    model = oracle_model("retrieval")
    cross = model.encoder.cross_keys_values(model.encode_image(tensors("inputs")["images"][:1]))
    [(indices, groups)] = ragged.passes(IDS, LENGTHS)
    with_index = ragged.encode(model.encoder, groups, cross, torch.zeros_like(indices))
    assert_close(ragged.encode(model.encoder, groups, cross), with_index)


def test_a_pass_has_about_as_many_tokens_as_allowed_and_groups_of_one_length() -> None:
    both = list(ragged.passes(IDS, LENGTHS, 12))
    assert [indices.tolist() for indices, _ in both] == [[1, 3, 5], [0, 4], [2]]
    assert [[tuple(group.shape) for group in groups] for _, groups in both] == [
        [(2, 3), (1, 4)],
        [(2, 5)],
        [(1, 9)],
    ]
