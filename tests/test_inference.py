"""Ranked answers, matches, retrieval and videos equal the original's recorded results and direct computation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import blip_lite
from blip import inference
from blip.inference import Ranked, Scoring
from blip.io.image import prepare
from blip.model.blip import BlipModel
from blip.model.losses import lm_loss
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.config import random_tiny_config
from blip_lite.decoding import Beam
from blip_lite.errors import ConfigError, MissingPart
from tests.eval.dense import ranks, recalls
from tests.oracle_files import oracle_config, oracle_model, tensors, values

HIDDEN = {"atol": 2e-5, "rtol": 1e-5}
LOGITS = {"atol": 1e-4, "rtol": 1e-5}
EXACT = {"atol": 0, "rtol": 1e-5}
TEXTS = values("inputs")


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    with torch.no_grad():
        yield


@cache
def tokenizer() -> Tokenizer:
    vocab = blip_lite.ASSETS / "bert-base-uncased-vocab.txt"
    return Tokenizer(vocab.read_text(encoding="utf-8").splitlines()[:4000], oracle_config("vqa").text)


def images(count: int, start: int = 0) -> Tensor:
    return tensors("inputs")["images"][start : start + count]


# Answers -------------------------------------------------------------------------------------------------------------


@cache
def vqa() -> BlipModel:
    return oracle_model("vqa")


def answer_list() -> Encoded:
    return tokenizer().encode(TEXTS["answers"], first="dec")


def ranked(k: int, scoring: Scoring = "valid", rows: slice = slice(0, 5)) -> Ranked:
    embeds = vqa().encode_image(images(5)[rows])
    return inference.rank_answers(
        vqa(), tokenizer(), embeds, TEXTS["questions"][rows], answer_list(), k=k, scoring=scoring
    )


def test_questions_and_answers_become_the_ids_of_the_original() -> None:
    recorded, answers = tensors("vqa"), answer_list()
    assert torch.equal(answers.input_ids, recorded["rank.answer_ids"])
    assert torch.equal(answers.attention_mask, recorded["rank.answer_mask"])
    questions = tokenizer().encode(TEXTS["questions"][:4], first="enc")
    assert torch.equal(questions.input_ids, recorded["train.question_ids"])
    assert torch.equal(questions.attention_mask, recorded["train.question_mask"])
    learned = tokenizer().encode(values("vqa")["train.answers"], first="dec")
    assert torch.equal(learned.input_ids, recorded["train.answer_ids"])
    assert torch.equal(learned.attention_mask, recorded["train.answer_mask"])


def test_probabilities_of_first_tokens_equal_the_original() -> None:
    recorded, embeds = tensors("vqa"), vqa().encode_image(images(5))
    states, mask = inference.question_states(vqa(), tokenizer(), embeds, TEXTS["questions"])
    logits = vqa().decode(torch.full((5, 1), 4000), None, states, mask)[:, 0]
    assert_close(logits, recorded["rank.first_logits"], **LOGITS)
    result = ranked(20)
    in_list_order = result.first.gather(1, result.indices.argsort(dim=1))
    assert_close(in_list_order, recorded["rank.prob_first_token"], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 8, 20])
def test_ranked_answers_equal_the_original(k: int) -> None:
    recorded, result = tensors("vqa"), ranked(k)
    assert_close(result.first.sort(dim=1).values, recorded[f"rank.k{k}.topk_probs"].sort(dim=1).values, **EXACT)
    ids = recorded["rank.answer_ids"]
    for row in range(5):
        theirs = recorded[f"rank.k{k}.topk_ids"][row].tolist()
        scores = dict(zip(theirs, recorded[f"rank.k{k}.log_probs_sum"][row].tolist(), strict=True))
        ours = dict(zip(result.indices[row].tolist(), result.scores[row].tolist(), strict=True))
        best = int(recorded[f"rank.k{k}.max_ids"][row])
        if k == 1:  # which of the answers with the same first token is kept is arbitrary
            assert ids[result.indices[row, 0], 1] == ids[best, 1]
        else:
            assert set(ours) == set(theirs)
            assert result.indices[row, 0] == best
        for index in ours.keys() & scores.keys():
            assert ours[index] == pytest.approx(scores[index], rel=1e-5)


def test_generated_answers_equal_the_original() -> None:
    recorded, texts, embeds = tensors("vqa"), values("vqa"), vqa().encode_image(images(5))
    decoding = Beam(num_beams=3, max_length=10, min_length=1)
    batch = inference.answer(vqa(), tokenizer(), embeds, TEXTS["questions"], decoding, attend_padding=True)
    scores = recorded[
        "generate.sequences_scores"
    ].tolist()  # their length counts [DEC] instead of [SEP], which is the same number
    for i, (best, *_) in enumerate(batch):
        assert [4000, *best.ids] == [int(id) for id in recorded["generate.ids"][i] if id != 0]
        assert best.text == texts["generate.answers"][i]
        assert best.score == pytest.approx(scores[i], 1e-5)
    for i, question in enumerate(TEXTS["questions"]):
        ((best, *_),) = inference.answer(vqa(), tokenizer(), embeds[i : i + 1], [question], decoding)
        assert [4000, *best.ids] == texts["generate.single_ids"][i]
        assert best.text == texts["generate.single_answers"][i]
        assert best.score == pytest.approx(texts["generate.single_scores"][i], 1e-5)


@pytest.mark.parametrize("scoring", ["nll", "valid", "all"])
def test_each_answer_is_scored_as_if_it_were_alone(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ranked(8, scoring)
    states, mask = inference.question_states(vqa(), tokenizer(), vqa().encode_image(images(5)), TEXTS["questions"])
    ids, real = answer_list()
    smoothing = 0.0 if scoring == "nll" else 0.1
    for row in range(5):
        for index, score in zip(result.indices[row].tolist(), result.scores[row].tolist(), strict=True):
            answer, answer_mask = ids[index][None], real[index][None]
            logits = vqa().decode(answer, answer_mask, states[row][None], mask[row][None])
            labels = answer.masked_fill(answer_mask == 0, -100)
            loss = lm_loss(logits, labels, smoothing, "none", "all" if scoring == "all" else "valid")
            assert -score == pytest.approx(float(loss), rel=1e-5)
        assert result.scores[row].tolist() == sorted(result.scores[row].tolist(), reverse=True)
    monkeypatch.setattr(inference, "ANSWERS_PER_PASS", 3)
    in_passes = ranked(8, scoring)
    assert torch.equal(in_passes.indices, result.indices)
    assert_close(in_passes.scores, result.scores, **EXACT)


def test_ranking_does_not_depend_on_the_other_questions() -> None:
    together = ranked(20)
    for row in range(5):
        alone = ranked(20, rows=slice(row, row + 1))
        assert torch.equal(alone.indices[0], together.indices[row])
        assert_close(alone.scores[0], together.scores[row], **EXACT)


def test_k_beyond_the_list_keeps_all_answers_and_k_of_0_is_an_error() -> None:
    assert ranked(500).indices.shape == (5, 20)
    with pytest.raises(ConfigError, match=r"k 0 of 20 answers: both must be at least 1"):
        ranked(0)


def test_answers_without_dec_are_refused() -> None:
    answers, embeds = tokenizer().encode(["red"]), vqa().encode_image(images(1))
    with pytest.raises(ConfigError, match=r"must start with \[DEC\]"):
        inference.rank_answers(vqa(), tokenizer(), embeds, ["what?"], answers)


# Matches and features ------------------------------------------------------------------------------------------------


@cache
def retrieval() -> BlipModel:
    return oracle_model("retrieval")


def test_match_logits_equal_the_original() -> None:
    recorded, embeds = tensors("itm"), retrieval().encode_image(images(4))
    for first, name in (("cls", "itm_logits"), ("enc", "itm_logits_enc")):
        encoded = tokenizer().encode(TEXTS["captions"][:4], first=first, max_length=35)  # type: ignore[arg-type]
        pairs = [inference.match_logits(retrieval(), embeds[i : i + 1], encoded, [i]) for i in range(4)]
        assert_close(torch.cat(pairs), recorded[name], **HIDDEN)
    encoded = tokenizer().encode(TEXTS["captions"][:5], max_length=35)
    combinations = [inference.match_logits(retrieval(), embeds[i : i + 1], encoded) for i in range(3)]
    assert_close(torch.stack(combinations), recorded["itm_logits_all"], **HIDDEN)


@pytest.mark.parametrize("pairs", [True, False])
def test_matches_equal_the_original(pairs: bool) -> None:
    recorded, texts = tensors("itm"), TEXTS["captions"][: 4 if pairs else 5]
    embeds = retrieval().encode_image(images(4 if pairs else 3))
    matches = inference.match(retrieval(), tokenizer(), embeds, texts, first="cls", pairs=pairs)
    logits = recorded["itm_logits" if pairs else "itm_logits_all"]
    assert_close(matches.itm, logits.softmax(dim=-1)[..., 1], **HIDDEN)
    cosines = recorded["itc_sim"]
    assert_close(matches.itc if pairs else matches.itc[:, :4], cosines.diagonal() if pairs else cosines[:3], **HIDDEN)


def test_features_equal_the_original() -> None:
    recorded, texts, model = tensors("itm"), TEXTS["captions"], retrieval()
    assert_close(inference.embed_image(model, images(4)), recorded["image_feat"], **HIDDEN)
    assert_close(inference.embed_text(model, tokenizer(), texts[:4]), recorded["text_feat"], **HIDDEN)
    assert_close(inference.embed_image(model, images(1), tokens=True), recorded["feature.image"], **HIDDEN)
    assert_close(inference.embed_text(model, tokenizer(), texts[:1], tokens=True), recorded["feature.text"], **HIDDEN)
    fused = inference.embed_multimodal(model, tokenizer(), images(1), texts[:1], tokens=True)
    assert_close(fused, recorded["feature.multimodal"], **HIDDEN)
    first = inference.embed_image(model, images(1), projected=False)
    assert_close(first, recorded["feature.image"][:, 0], **HIDDEN)


# Retrieval -----------------------------------------------------------------------------------------------------------


def test_cosines_of_retrieval_equal_the_original() -> None:
    recorded, model = tensors("retrieval_eval"), retrieval()
    image_features = model.project_image(model.encode_image(images(12)))
    text_features = inference.embed_text(model, tokenizer(), TEXTS["captions"])
    assert_close(image_features, recorded["image_embeds"], **HIDDEN)
    assert_close(text_features, recorded["text_embeds"], **HIDDEN)
    assert_close(image_features @ text_features.T, recorded["sims_matrix"], **HIDDEN)


@pytest.mark.parametrize("case", ["k4", "k8", "k12", "random"])
def test_recalls_of_the_score_matrices_equal_the_original(case: str) -> None:
    recorded, expected = tensors("retrieval_eval"), values("retrieval_eval")
    owner = np.array([expected["txt2img"][str(text)] for text in range(24)])
    assert [np.flatnonzero(owner == image).tolist() for image in range(12)] == list(expected["img2txt"].values())
    to_texts = recalls(recorded[f"{case}.score_i2t"].numpy(), owner)
    to_images = recalls(recorded[f"{case}.score_t2i"].numpy().T, owner)
    ours = {name: (to_texts if name.startswith("txt") else to_images)[name] for name in to_texts if name != "r_mean"}
    ours["r_mean"] = (ours["txt_r_mean"] + ours["img_r_mean"]) / 2
    ranked_rows = {"k4": 4, "k8": 8, "k12": 12, "random": 24}[case]
    for name, theirs in expected[f"{case}.metrics"].items():
        # if fewer than n have a score, the original's order of the others is random
        if ranked_rows >= 10 or (name[-1].isdigit() and int(name.partition("_r")[2]) <= ranked_rows):
            assert ours[name] == pytest.approx(theirs), name


# Videos --------------------------------------------------------------------------------------------------------------


def clips(count: int) -> Tensor:
    return images(4 * count).unflatten(0, (count, 4))


@pytest.mark.parametrize("count", [3, 5])
def test_vectors_of_videos_equal_the_original(count: int) -> None:
    recorded, texts, model = tensors("video"), TEXTS["captions"][:5], retrieval()
    states, vectors = inference.embed_video(model, clips(count))
    assert_close(vectors, recorded[f"v{count}.video_embeds"], **HIDDEN)
    if count == 3:
        assert_close(states, recorded["v3.video_feats"], **HIDDEN)
    cosines = vectors @ inference.embed_text(model, tokenizer(), texts).T
    assert_close(cosines, recorded[f"v{count}.sims_matrix"], **HIDDEN)


def test_video_recalls_equal_the_original() -> None:
    recorded, theirs, owner = tensors("video"), dict(values("video")["v5.metrics"]), np.arange(5)
    to_videos = recorded["v5.score_t2v"].numpy().T
    assert theirs.pop("vid_mdR") == np.median(ranks(to_videos, owner)[1] + 1)
    ours = {name: x for name, x in recalls(recorded["v5.score_v2t"].numpy(), owner).items() if name.startswith("txt")}
    ours |= {f"vid{name[3:]}": x for name, x in recalls(to_videos, owner).items() if name.startswith("img")}
    ours["r_mean"] = (ours["txt_r_mean"] + ours["vid_r_mean"]) / 2
    assert ours == pytest.approx(theirs)


def test_frames_are_normalised_as_in_the_original() -> None:
    recorded, config = tensors("video"), oracle_config("retrieval")
    for frame, expected in zip(recorded["norm.frames"], recorded["norm.out"], strict=True):
        pixels = frame.permute(1, 2, 0).numpy()
        for top in (0, 1):  # the two largest squares of 6 x 5 pixels, which are not resized
            square = Image.fromarray(pixels[top : top + 5])
            values_ = prepare([square], size=5, mean=config.image_mean, std=config.image_std)[0]
            assert_close(values_, expected[:, top : top + 5], atol=1e-6, rtol=1e-5)


def test_a_model_without_projections_has_no_video_vectors() -> None:
    model = BlipModel(random_tiny_config("vqa"))
    with pytest.raises(MissingPart, match="has no vision_proj"):
        inference.embed_video(model, torch.zeros(1, 2, 3, 64, 64))


@pytest.fixture
def padded_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Passes over texts as on a GPU, of at most 60 ids; returns the shapes of their ids."""
    shapes: list[tuple[int, ...]] = []
    original = inference._padded_passes

    def passes(*args: Any) -> Iterator[Any]:
        for rows, ids, *rest in original(*args):
            shapes.append(tuple(ids.shape))
            yield rows, ids, *rest

    monkeypatch.setattr(inference, "_padded_passes", passes)
    monkeypatch.setattr(inference, "_needs_padding", lambda device: True)
    monkeypatch.setattr(inference, "GPU_TOKENS_PER_PASS", 60)
    return shapes


@torch.inference_mode()
def test_padded_passes_give_the_scores_of_passes_without_padding(
    padded_passes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = oracle_model("retrieval")
    embeds = model.encode_image(tensors("inputs")["images"][:3])
    texts = [*TEXTS["captions"][:4], "a dog", "two men on a street"]

    def scores() -> list[torch.Tensor]:
        grouped, mixed = (
            inference.match_own(model, tokenizer(), embeds, texts, i) for i in ([0, 0, 1, 1, 2, 2], [2, 0] * 3)
        )
        grid = inference.match(model, tokenizer(), embeds, texts)
        vectors = (inference.embed_text(model, tokenizer(), texts, tokens=tokens) for tokens in (False, True))
        return [grouped.itm, grouped.itc, mixed.itm, grid.itm, *vectors]

    padded = scores()
    assert len(padded_passes) > 10 and all(rows * length <= 60 for rows, length in padded_passes)
    monkeypatch.undo()
    for a, b in zip(padded, scores(), strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-5)
