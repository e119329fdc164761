"""Self-critical training: the loss as Rennie et al. and Luo write it, the reward as CIDEr-D scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from blip import inference
from blip.checkpoint.load import random_tiny
from blip.inference import Hypothesis
from blip.metrics.caption import Cider, tokenize
from blip.tasks.reward import END, CiderReward, Reward, self_critical_loss

REFERENCES = [["a dog runs on the grass", "a dog on grass"], ["two men play guitar", "men with guitars on a stage"]]


def test_the_reward_is_cider_with_the_end_as_a_word() -> None:
    reward = CiderReward(REFERENCES)
    whole = Cider([[[*tokenize(r), END] for r in image] for image in REFERENCES])
    assert reward(0, "A dog on grass.", True) == whole.score(0, ["a", "dog", "on", "grass", END])
    assert reward(0, "a dog on grass", True) > reward(0, "a dog on grass", False) > reward(1, "a dog on grass", False)


def test_the_loss_raises_the_probability_of_above_average_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = random_tiny("caption")
    model, tokenizer, text = loaded.model, loaded.tokenizer, loaded.config.text
    lines = [["a dog on grass", "a cat", "men"], ["two men play guitar", "a dog", "grass"]]
    ids = [[tuple(tokenizer.encode([t]).input_ids[0, 1:].tolist()) for t in row] for row in lines]
    drawn = [
        [Hypothesis(text=t, ids=i, logprobs=(), score=0.0) for t, i in zip(row, numbers, strict=True)]
        for row, numbers in zip(lines, ids, strict=True)
    ]
    monkeypatch.setattr(inference, "caption", lambda *args, **options: drawn)
    embeds = model.encode_image(torch.rand(2, 3, 32, 32)).detach()
    reward = CiderReward(REFERENCES)
    loss, mean = self_critical_loss(model, tokenizer, embeds, [0, 1], reward, Reward(samples=3), 0)
    prompt = tokenizer.prompt_ids(model.config.prompt)
    total: Any = torch.tensor(0.0)
    count, rewards = 0, []
    for image in range(2):
        scores = [reward(image, t, True) for t in lines[image]]
        rewards += scores
        for i, numbers in enumerate(ids[image]):
            others = sum(s for j, s in enumerate(scores) if j != i) / 2
            row = torch.tensor([[*prompt, *numbers]])
            log_probs = model.decode(row, torch.ones_like(row), embeds[image : image + 1])[0].log_softmax(-1)
            chosen = log_probs[len(prompt) - 1 : -1].gather(1, row[0, len(prompt) :, None])
            total = total - (scores[i] - others) * chosen.sum()
            count += len(numbers)
    assert mean == pytest.approx(sum(rewards) / 6, rel=1e-5)
    assert_close(loss, total / count, atol=1e-5, rtol=1e-4)
    assert text.sep_id == ids[0][0][-1]
