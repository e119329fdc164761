"""Ranking against the original's score matrices, against the plain way of scoring, and against ranks of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import blip_lite
from blip import inference
from blip.eval import pairs
from blip.eval.pairs import (
    Pairs,
    Ranking,
    TokenStore,
    best_pairs,
    match_pairs,
    rank_by_cosine,
    rank_by_score,
    rank_pairs,
)
from blip.model.blip import BlipModel
from blip.model.mkldnn_linear import pack
from blip.tokenizer import Tokenizer
from blip_lite.config import random_tiny_config
from blip_lite.errors import ConfigError, MissingPart, UsageError
from tests.eval.dense import ranks, recalls
from tests.oracle_files import oracle_config, oracle_model, tensors, values

HIDDEN = {"atol": 2e-5, "rtol": 1e-5}
SCORES = {"atol": 1e-5, "rtol": 1e-5}
TEXTS: list[str] = values("inputs")["captions"]
OWNERS = [i // 2 for i in range(24)]
UNSCORED = -100.0  # as the original writes it


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    with torch.no_grad():
        yield


@cache
def tokenizer() -> Tokenizer:
    vocab = blip_lite.ASSETS / "bert-base-uncased-vocab.txt"
    return Tokenizer(vocab.read_text(encoding="utf-8").splitlines()[:4000], oracle_config("vqa").text)


@cache
def model() -> BlipModel:
    return oracle_model("retrieval")


@cache
def states() -> Tensor:
    return model().encode_image(tensors("inputs")["images"][:12])


def encode(numbers: Sequence[int]) -> Tensor:
    return states()[list(numbers)]


@cache
def features() -> tuple[Tensor, Tensor]:
    return model().project_image(states()), inference.embed_text(model(), tokenizer(), TEXTS)


def scored(selected: Pairs) -> Tensor:
    encoded = tokenizer().encode(TEXTS, first="enc", max_length=35)
    return match_pairs(model(), encoded, selected, encode)[:, 1] + selected.cosines


def matrices(selected: Pairs, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Score matrices as in the original: images to texts [N, M], texts to images [M, N]."""
    count = len(selected.of_image), len(selected.of_text)
    to_texts, to_images = torch.full(count, UNSCORED), torch.full(count[::-1], UNSCORED)
    to_texts.scatter_(1, selected.texts[selected.of_image], scores[selected.of_image])
    to_images.scatter_(1, selected.images[selected.of_text], scores[selected.of_text])
    return to_texts, to_images


# Against the original ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [4, 8, 12])
def test_both_score_matrices_equal_the_original(k: int) -> None:
    recorded, selected = tensors("retrieval_eval"), best_pairs(*features(), k)
    to_texts, to_images = matrices(selected, scored(selected))
    assert_close(to_texts, recorded[f"k{k}.score_i2t"], **HIDDEN)
    assert_close(to_images, recorded[f"k{k}.score_t2i"], **HIDDEN)


@pytest.mark.parametrize("k", [4, 8, 12])
def test_recalls_equal_the_original(k: int) -> None:
    selected = rank_pairs(model(), tokenizer(), encode, *features(), TEXTS, OWNERS, k=k)
    theirs = values("retrieval_eval")[f"k{k}.metrics"]
    for name, ranking in zip(("txt", "img"), selected, strict=True):
        for depth in (1, 5, 10):
            if depth <= k:  # beyond, the original's order of pairs without a score is chance
                assert 100 * float((ranking.ranks < depth).float().mean()) == pytest.approx(theirs[f"{name}_r{depth}"])


@pytest.mark.parametrize("count", [3, 5])
def test_scores_of_videos_equal_the_original(count: int) -> None:
    recorded, texts = tensors("video"), TEXTS[:5]
    clips, vectors = inference.embed_video(model(), tensors("inputs")["images"][: 4 * count].unflatten(0, (count, 4)))
    selected = best_pairs(vectors, inference.embed_text(model(), tokenizer(), texts), 3)
    encoded = tokenizer().encode(texts, first="enc", max_length=35)
    scores = match_pairs(model(), encoded, selected, lambda numbers: clips[list(numbers)])[:, 1] + selected.cosines
    to_texts, to_videos = matrices(selected, scores)
    # original: a row and a column for as many videos as there are texts; ours: for those that there are
    theirs_to_texts, theirs_to_videos = recorded[f"v{count}.score_v2t"], recorded[f"v{count}.score_t2v"]
    assert_close(to_texts, theirs_to_texts[:count], **HIDDEN)
    assert_close(to_videos, theirs_to_videos[:, :count], **HIDDEN)
    assert bool((theirs_to_texts[count:] == UNSCORED).all() and (theirs_to_videos[:, count:] == UNSCORED).all())


# Scores --------------------------------------------------------------------------------------------------------------


def plain_score(image: int, text: int) -> float:
    """A pair by itself, as the original scores it: padded to 35, keys and values of its own."""
    encoded = tokenizer().encode([TEXTS[text]], first="enc", max_length=35, padding="max_length")
    hidden = model().fuse(encoded.input_ids, encoded.attention_mask, states()[image : image + 1])
    return float(model().match_logits(hidden)[0, 1] + features()[0][image] @ features()[1][text])


@pytest.mark.parametrize("tokens", [1, 40, 4096])
def test_every_pair_is_scored_once_and_as_by_itself(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "TOKENS_PER_PASS", tokens)
    selected = best_pairs(*features(), 5)
    both = list(zip(selected.images.tolist(), selected.texts.tolist(), strict=True))
    assert len(set(both)) == len(both) < 12 * 5 + 24 * 5
    assert_close(scored(selected), torch.tensor([plain_score(*pair) for pair in both]), **SCORES)


def test_packed_weights_give_the_same_scores() -> None:
    selected, packed = best_pairs(*features(), 5), oracle_model("retrieval")
    pack(packed)
    encoded = tokenizer().encode(TEXTS, first="enc", max_length=35)
    assert_close(match_pairs(packed, encoded, selected, encode)[:, 1] + selected.cosines, scored(selected), **SCORES)


@pytest.mark.parametrize("way", ["bfloat16 weights", "autocast", "autocast, packed"])
def test_reduced_precision_has_nearly_the_same_scores(way: str) -> None:
    selected, reduced = best_pairs(*features(), 5), oracle_model("retrieval")
    embeds, encoded = states(), tokenizer().encode(TEXTS, first="enc", max_length=35)
    if way == "bfloat16 weights":
        reduced, embeds = reduced.bfloat16(), embeds.bfloat16()
    if way == "autocast, packed":
        pack(reduced)
    with torch.autocast("cpu", torch.bfloat16, enabled=way != "bfloat16 weights"):
        logits = match_pairs(reduced, encoded, selected, lambda numbers: embeds[list(numbers)])
    assert logits.dtype == torch.float32
    assert_close(logits[:, 1] + selected.cosines, scored(selected), atol=0.05, rtol=0.02)


def test_cosines_are_those_of_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        reduced = best_pairs(*features(), 5)
    assert torch.equal(reduced.cosines, best_pairs(*features(), 5).cosines)


def test_images_are_encoded_once_and_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "IMAGES_PER_PASS", 5)
    requested: list[list[int]] = []
    progress: list[tuple[int, int]] = []

    def noted(numbers: Sequence[int]) -> Tensor:
        requested.append(list(numbers))
        return encode(numbers)

    encoded, selected = tokenizer().encode(TEXTS, first="enc", max_length=35), best_pairs(*features(), 4)
    match_pairs(model(), encoded, selected, noted, lambda done, count: progress.append((done, count)))
    assert requested == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert progress == [(5, 12), (10, 12), (12, 12)]


def test_texts_longer_than_the_limit_are_cut_to_it() -> None:
    texts = [" ".join(["a dog"] * 40), " ".join(["a dog"] * 50), "a dog"]
    vectors = inference.embed_text(model(), tokenizer(), texts, max_length=35)
    to_texts, _ = rank_pairs(model(), tokenizer(), encode, features()[0], vectors, texts, [0, 1, 2], k=3)
    scores = to_texts.scores.gather(1, to_texts.top.argsort(dim=1))
    assert_close(scores[:, 0], scores[:, 1])
    assert float((scores[:, 0] - scores[:, 2]).abs().min()) > 1e-4


def test_a_model_without_matching_cannot_rank() -> None:
    selected = best_pairs(*features(), 1)
    with pytest.raises(MissingPart, match="has no itm_head"):
        match_pairs(BlipModel(random_tiny_config("vqa")), tokenizer().encode(TEXTS), selected, encode)


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"k -1: must be at least 1"):
        rank_pairs(model(), tokenizer(), encode, *features(), TEXTS, OWNERS, k=-1)
    with pytest.raises(UsageError, match=r"12 images and 0 texts to rank; must be at least 1 of each"):
        rank_pairs(model(), tokenizer(), encode, features()[0], features()[1][:0], [], [], k=4)


# Ranks ---------------------------------------------------------------------------------------------------------------


def unit(rows: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


SETS = {  # image features, text features, owners
    "two each": (unit(9, 0), unit(18, 1), [i // 2 for i in range(18)]),
    "mixed": (unit(7, 2), unit(15, 3), [3, 0, 6, 6, 1, 0, 5, 2, 3, 3, 1, 0, 4, 4, 2]),
    "one without": (unit(6, 4), unit(10, 5), [0, 1, 1, 5, 2, 3, 3, 3, 0, 2]),
    "few texts": (unit(12, 6), unit(4, 7), [0, 3, 3, 11]),
}


def as_lists(selected: tuple[Ranking, Ranking]) -> list[list[int]]:
    return [ranking.ranks.tolist() for ranking in selected]


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("name", SETS)
def test_ranks_of_pairs_equal_those_of_whole_matrices(name: str, k: int) -> None:
    images, texts, owners = SETS[name]
    selected = best_pairs(images, texts, k)
    scores = torch.randn(len(selected.images), generator=torch.Generator().manual_seed(8)).mul(2).round()  # with ties
    to_texts, to_images = matrices(selected, scores)
    expected = ranks(to_texts.numpy(), np.array(owners))[0], ranks(to_images.numpy().T, np.array(owners))[1]
    assert as_lists(rank_by_score(selected, scores, owners)) == [rank.tolist() for rank in expected]


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
@pytest.mark.parametrize("name", SETS)
def test_ranks_by_cosine_equal_those_of_the_whole_matrix(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "COSINES_PER_PASS", block)
    images, texts, owners = SETS[name]
    expected = ranks((images @ texts.T).numpy(), np.array(owners))
    selected = rank_pairs(model(), tokenizer(), encode, images, texts, [""] * len(texts), owners, k=0)
    assert as_lists(selected) == [rank.tolist() for rank in expected]


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
@pytest.mark.parametrize("name", SETS)
def test_pairs_are_the_nearest_of_both_sides(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "COSINES_PER_PASS", block)
    images, texts, _ = SETS[name]
    selected, cosines = best_pairs(images, texts, 3), images @ texts.T
    assert_close(selected.cosines, cosines[selected.images, selected.texts])
    assert bool((selected.images[selected.of_image] == torch.arange(len(images))[:, None]).all())
    assert bool((selected.texts[selected.of_text] == torch.arange(len(texts))[:, None]).all())
    assert torch.equal(selected.texts[selected.of_image], cosines.topk(3, dim=1).indices)
    assert torch.equal(selected.images[selected.of_text], cosines.T.topk(3, dim=1).indices)
    indices = torch.cat([selected.of_image.flatten(), selected.of_text.flatten()])
    assert set(indices.tolist()) == set(range(len(selected.images)))


def test_recalls_of_ranks_equal_those_of_matrices() -> None:
    selected = best_pairs(*features(), 12)
    scores = scored(selected)
    to_texts, to_images = matrices(selected, scores)
    whole = recalls(to_texts.numpy(), np.array(OWNERS), to_images.numpy().T)
    text_ranks, image_ranks = (ranking.ranks for ranking in rank_by_score(selected, scores, OWNERS))
    assert 100 * float((text_ranks < 5).float().mean()) == pytest.approx(whole["txt_r5"])
    assert 100 * float((image_ranks < 5).float().mean()) == pytest.approx(whole["img_r5"])


def test_the_first_of_a_ranking_are_best_first_with_their_scores() -> None:
    images, texts, owners = SETS["two each"]
    to_texts, to_images = rank_by_cosine(images, texts, owners)
    assert to_texts.top.shape == (9, 10) and to_images.top.shape == (18, 9)
    expected = (images @ texts.T).sort(dim=1, descending=True)
    assert torch.equal(to_texts.top, expected.indices[:, :10])
    assert_close(to_texts.scores, expected.values[:, :10])
    selected = best_pairs(images, texts, 4)
    scores = -selected.cosines
    again, _ = rank_by_score(selected, scores, owners)
    assert torch.equal(again.top, expected.indices[:, :4].flip(1))  # the four nearest, now the other way round
    assert_close(again.scores, -expected.values[:, :4].flip(1))


def test_nan_scores_come_last() -> None:
    images, texts, owners = SETS["two each"]
    selected = best_pairs(images, texts, 18)
    correct = selected.images == torch.tensor(owners)[selected.texts]
    text_ranks, image_ranks = as_lists(rank_by_score(selected, torch.where(correct, torch.nan, -5.0), owners))
    assert text_ranks == [16] * 9 and image_ranks == [8] * 18
    text_ranks, image_ranks = as_lists(rank_by_cosine(images * torch.nan, texts, owners))
    assert text_ranks == [16] * 9 and image_ranks == [8] * 18


# Kept states ---------------------------------------------------------------------------------------------------------


def test_a_store_keeps_what_fits_and_encodes_the_rest_again() -> None:
    requested: list[list[int]] = []

    def noted(numbers: Sequence[int]) -> Tensor:
        requested.append(list(numbers))
        return encode(numbers)

    size = states()[0].nbytes
    store = TokenStore(noted, budget_bytes=5 * size)
    store.add([0, 1, 2], states()[:3])
    store.add([3, 4, 5], states()[3:6])  # no room
    store.add([7, 6], states()[[7, 6]])
    assert store.free_bytes == 0
    assert torch.equal(store([6, 0, 7]), states()[[6, 0, 7]]) and requested == []
    assert torch.equal(store(range(2, 8)), states()[2:8]) and requested == [[3, 4, 5]]


@pytest.mark.parametrize("budget", [0, 100_000, 1 << 30])
def test_a_store_does_not_change_ranks(budget: int) -> None:
    store = TokenStore(encode, budget)
    for start in range(0, 12, 4):
        store.add(range(start, start + 4), states()[start : start + 4])
    kept = rank_pairs(model(), tokenizer(), store, *features(), TEXTS, OWNERS, k=6)
    plain = rank_pairs(model(), tokenizer(), encode, *features(), TEXTS, OWNERS, k=6)
    for ours, theirs in zip(kept, plain, strict=True):
        assert torch.equal(ours.ranks, theirs.ranks) and torch.equal(ours.scores, theirs.scores)
