"""Decoding compared with all runs recorded from the original, and with plain slow implementations."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import blip_lite
from blip import inference
from blip.model.decoding import nucleus_probs, process
from blip.model.generation import generate
from blip.model.stepper import TextStepper
from blip.tokenizer import Tokenizer
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus
from blip_lite.errors import ConfigError
from tests.oracle_files import oracle_config, oracle_model, tensors, values

RUNS = values("caption")["runs"]


@cache
def tokenizer() -> Tokenizer:
    vocab = blip_lite.ASSETS / "bert-base-uncased-vocab.txt"
    return Tokenizer(vocab.read_text(encoding="utf-8").splitlines()[:4000], oracle_config("caption").text)


def make_decoding(run: dict[str, Any]) -> Decoding:
    lengths = {"max_length": run["max_length"], "min_length": run["min_length"]}
    if run.get("sample"):
        return Nucleus(top_p=run["top_p"], num_captions=run.get("repeat_interleave", 1), **lengths)
    if run["num_beams"] == 1:
        return Greedy(repetition_penalty=run["repetition_penalty"], **lengths)
    return Beam(
        num_beams=run["num_beams"],
        repetition_penalty=run["repetition_penalty"],
        length_penalty=run.get("length_penalty", 1.0),
        num_captions=run.get("num_return_sequences", 1),
        **lengths,
    )


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_ids_and_texts_equal_the_original(number: int) -> None:
    run, prompt = RUNS[number], tokenizer().prompt_ids("a picture of ")
    generator = torch.Generator().manual_seed(run["seed"]) if run.get("sample") else None
    images = tensors("inputs")["images"][slice(*run["images"])]
    model = oracle_model("caption")
    results = inference.caption(model, tokenizer(), model.encode_image(images), make_decoding(run), generator=generator)
    flat = [hypothesis for row in results for hypothesis in row]
    assert len(flat) == len(run["ids"])
    for hypothesis, ids, text in zip(flat, run["ids"], run["captions"], strict=True):
        assert [*prompt, *hypothesis.ids] == [i for i in ids if i != 0]
        assert hypothesis.text == text.removeprefix("a picture of ").strip()  # direct runs keep the prompt


def scores_of(ids: torch.Tensor, image: int) -> torch.Tensor:
    model = oracle_model("caption")
    embeds = model.encode_image(tensors("inputs")["images"][image : image + 1])
    return model.decode(ids, None, embeds)[:, -1]


def test_sampling_probabilities_equal_the_original_step_by_step() -> None:
    recorded = tensors("caption")
    ids, decoding = recorded["nucleus.ids"], Nucleus(max_length=12, min_length=5)
    for t in range(4, ids.shape[1]):
        scores = process(scores_of(ids[:, :t], 0), ids[:, :t], decoding, 102)
        probs = nucleus_probs(scores, decoding.top_p, decoding.top_k)
        assert int((probs > 0).sum()) == int(recorded["nucleus.kept_counts"][t - 4, 0])
        top_probs, chosen = probs.topk(50)
        kept = int((probs > 0).sum())
        assert chosen[0, :kept].tolist() == recorded["nucleus.step_ids"][t - 4, 0, :kept].tolist()
        torch.testing.assert_close(top_probs[0], recorded["nucleus.step_probs"][t - 4, 0], atol=1e-5, rtol=1e-3)


def test_greedy_scores_equal_the_original_step_by_step() -> None:
    recorded, decoding = tensors("caption"), Greedy(max_length=12, min_length=8, repetition_penalty=1.5)
    for image in range(2):
        ids = recorded["greedy.ids"][image : image + 1]
        for t in range(4, ids.shape[1]):
            if 102 in ids[0, :t].tolist():
                break
            scores, top = process(scores_of(ids[:, :t], image), ids[:, :t], decoding, 102).topk(5)
            assert top[0].tolist() == recorded["greedy.step_top5_ids"][t - 4, image].tolist()
            torch.testing.assert_close(
                scores[0], recorded["greedy.step_top5_scores"][t - 4, image], atol=1e-4, rtol=1e-5
            )


@pytest.mark.parametrize("decoding", [Greedy(), Beam(), Nucleus(), Nucleus(num_captions=3), Beam(num_captions=2)])
def test_a_result_depends_on_its_own_image_alone(decoding: Decoding) -> None:
    model, images = oracle_model("caption"), tensors("inputs")["images"][:5]
    together = inference.caption(model, tokenizer(), model.encode_image(images), decoding, seeds=[3, 1, 4, 1, 5])
    for i, seed in enumerate([3, 1, 4, 1, 5]):
        alone = inference.caption(model, tokenizer(), model.encode_image(images[i : i + 1]), decoding, seeds=[seed])[0]
        assert [h.ids for h in alone] == [h.ids for h in together[i]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[i]], abs=1e-4)


def test_prompts_of_different_lengths_in_one_batch() -> None:
    model, images = oracle_model("caption"), tensors("inputs")["images"][:3]
    prompts = ["a picture of ", "", "the man "]
    together = inference.caption(model, tokenizer(), model.encode_image(images), Beam(), prompt=prompts)
    for i, prompt in enumerate(prompts):
        alone = inference.caption(model, tokenizer(), model.encode_image(images[i : i + 1]), Beam(), prompt=prompt)
        assert alone[0][0].ids == together[i][0].ids


def test_the_score_is_the_mean_log_probability_of_the_new_tokens() -> None:
    model, images = oracle_model("caption"), tensors("inputs")["images"][:1]
    best = inference.caption(model, tokenizer(), model.encode_image(images), Beam(repetition_penalty=1.2))[0][0]
    ids = torch.tensor([[*tokenizer().prompt_ids("a picture of "), *best.ids]])
    logprobs = model.decode(ids, None, model.encode_image(images))[0, :-1].log_softmax(-1)
    expected = logprobs.gather(1, ids[0, 1:, None])[3:, 0]
    assert best.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert best.score == pytest.approx(expected.mean().item(), abs=1e-4)


def test_blocked_ngrams_and_banned_words_do_not_occur() -> None:
    model, images = oracle_model("caption"), tensors("inputs")["images"][:3]
    plain = [
        row[0].ids for row in inference.caption(model, tokenizer(), model.encode_image(images), Greedy(min_length=18))
    ]
    banned = (plain[0][1],)
    decoding = Greedy(min_length=18, no_repeat_ngram=2, banned=(banned,))
    for row in inference.caption(model, tokenizer(), model.encode_image(images), decoding):
        pairs = list(zip(row[0].ids, row[0].ids[1:], strict=False))
        assert len(set(pairs)) == len(pairs)
        assert banned[0] not in row[0].ids


def test_a_prompt_that_fills_the_length_is_refused() -> None:
    images = tensors("inputs")["images"][:1]
    model = oracle_model("caption")
    with pytest.raises(ConfigError, match="max_length 4: must exceed the 4 ids of the prompt"):
        inference.caption(model, tokenizer(), model.encode_image(images), Beam(max_length=4, min_length=1))


def test_new_length_norm_divides_by_the_new_ids() -> None:
    model, images = oracle_model("caption"), tensors("inputs")["images"][:6]
    total = inference.caption(model, tokenizer(), model.encode_image(images), Beam())
    new = inference.caption(model, tokenizer(), model.encode_image(images), Beam(length_norm="new"))
    hf = values("hf_comparison")
    assert hf  # records the differences; here: both end with the end token or at the full length
    for row in total + new:
        assert row[0].ids[-1] == 102 or len(row[0].ids) == 16


def test_a_stepper_uses_the_question_mask_of_the_answer_decoder() -> None:
    vqa, model = tensors("vqa"), oracle_model("vqa")
    stepper = TextStepper(model.decoder, model.decoder.cross_keys_values(vqa["xmask.states"]), vqa["xmask.mask"])
    start = torch.full((3, 1), 4000)
    scores = stepper.start(start, 4)
    expected = model.decode(start, None, vqa["xmask.states"], vqa["xmask.mask"])[:, -1]
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-5)
    results = generate(
        TextStepper(model.decoder, model.decoder.cross_keys_values(vqa["xmask.states"])),
        start,
        Beam(max_length=6, min_length=1),
        model.config.text,
    )
    assert len(results) == 3
