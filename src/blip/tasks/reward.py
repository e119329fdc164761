"""Self-critical training: captions are sampled and those above the average CIDEr-D of their photo made likelier.

Rennie et al. 2017, with the mean of a photo's other samples as baseline (Luo 2020). Not in the original repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blip import inference
from blip.metrics.caption import Cider, tokenize
from blip.model.blip import BlipModel
from blip.model.decoding import Nucleus
from blip.tokenizer import Tokenizer

END = "<end>"  # counts as a word, so that a caption that stops in mid-sentence is worth less


@dataclass(frozen=True, kw_only=True)
class Reward:
    """How captions are sampled for self-critical training."""

    samples: int = 5
    max_length: int = 20
    weight: float = 1.0


@dataclass
class CiderReward:
    """CIDEr-D of captions of a fixed set of photos, document frequencies over all their references."""

    references: Sequence[Sequence[str]]
    _scorer: Cider = field(init=False)

    def __post_init__(self) -> None:
        self._scorer = Cider([[[*tokenize(r), END] for r in image] for image in self.references])

    def __call__(self, image: int, caption: str, ended: bool) -> float:
        tokens = tokenize(caption)
        return self._scorer.score(image, [*tokens, END] if ended else tokens)


def self_critical_loss(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    images: Sequence[int],
    reward: CiderReward,
    config: Reward,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Policy-gradient loss a token, and the mean reward of the samples. images: their numbers in `reward`."""
    text = model.config.text
    was_training = model.training
    model.eval()
    sampling = Nucleus(
        top_p=1.0, top_k=0, repetition_penalty=1.0, num_captions=config.samples, max_length=config.max_length,
        min_length=1,
    )  # fmt: skip
    with torch.no_grad():
        drawn = inference.caption_embeds(model, tokenizer, image_embeds.detach(), sampling, generator=generator)
    model.train(was_training)
    rewards = torch.tensor(
        [
            [reward(image, h.text, h.ids[-1:] == (text.sep_id,)) for h in row]
            for image, row in zip(images, drawn, strict=True)
        ]
    )  # [B, samples]
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (config.samples - 1)
    advantage = (rewards - others).flatten()  # [B * samples]
    prompt = tokenizer.prompt_ids(model.config.prompt)
    rows = [[*prompt, *h.ids] for row in drawn for h in row]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=text.pad_id)
    lengths = torch.tensor([len(r) for r in rows])
    mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    log_probs = model.decode(ids, mask.long(), image_embeds)[:, :-1].float().log_softmax(dim=-1)
    chosen = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    new = mask[:, 1:].clone()
    new[:, : len(prompt) - 1] = False  # the prompt was given, not chosen
    loss = -(advantage[:, None] * chosen * new).sum() / new.sum()
    return loss, float(rewards.mean())
