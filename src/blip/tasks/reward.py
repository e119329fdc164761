"""Self-critical training: sampled captions with above-average CIDEr-D for their image become more probable.

Rennie et al. 2017, with the mean of the image's other samples as baseline (Luo 2020). Not in the original repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from blip import inference
from blip.data.sources import Source
from blip.distributed import is_sharded, scale_to_global_mean
from blip.metrics.caption import Cider, tokenize
from blip.model.blip import BlipModel
from blip.model.losses import at_least_float32
from blip.runtime import mixed_bits
from blip.tokenizer import Tokenizer
from blip_lite.decoding import Nucleus
from blip_lite.errors import ConfigError

END = "<end>"  # counts as a word, so that captions cut off in mid-sentence score lower


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Sampling of captions for self-critical training: `samples` per image, each token from the `top_k` most probable.

    Label smoothing leaves a tenth of the probability to words that beam search would never choose; without `top_k` most
    samples contain one of them and teach little.
    """

    samples: int = 5
    top_k: int = 20
    max_length: int = 20
    weight: float = 1.0


@dataclass
class CiderReward:
    """CIDEr-D of captions of a fixed set of images, with document frequencies over all their references."""

    references: Sequence[Sequence[str]]
    _scorer: Cider = field(init=False)

    def __post_init__(self) -> None:
        self._scorer = Cider([[[*tokenize(r), END] for r in image] for image in self.references])

    @classmethod
    def from_source(cls, source: Source) -> CiderReward:
        return cls([source[i].texts for i in range(len(source))])

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
    seed: int,
    whole_batch: bool = False,
) -> tuple[Tensor, float]:
    """Return the policy-gradient loss per token and the mean reward of the samples.

    images: their numbers in `reward`. whole_batch: the loss is this process's share of the mean over all tokens.
    Raises ConfigError for a sharded model.
    """
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ConfigError("reward: not with strategy fsdp, whose processes must all decode equally long; use ddp")
    text = model.config.text
    was_training = model.training
    model.eval()
    sampling = Nucleus(
        top_p=1.0,
        top_k=config.top_k,
        repetition_penalty=1.0,
        num_captions=config.samples,
        min_length=1,
        max_length=config.max_length,
    )
    seeds = [mixed_bits(seed, image) for image in images]
    with torch.no_grad():
        sampled = inference.caption(model, tokenizer, image_embeds.detach(), sampling, seeds=seeds)
    model.train(was_training)
    rewards = torch.tensor(
        [
            [reward(image, h.text, h.ids[-1:] == (text.sep_id,)) for h in row]
            for image, row in zip(images, sampled, strict=True)
        ]
    )  # [B, samples]
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (config.samples - 1)
    advantage = (rewards - others).flatten()  # [B * samples]
    prompt = tokenizer.prompt_ids(model.config.prompt)
    rows = [[*prompt, *h.ids] for row in sampled for h in row]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=text.pad_id)
    lengths = torch.tensor([len(r) for r in rows])
    mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    new = mask[:, 1:].clone()
    new[:, : len(prompt) - 1] = False  # the prompt is given, not sampled
    ids, mask, new, advantage = (x.to(image_embeds.device) for x in (ids, mask, new, advantage))
    logits = at_least_float32(model.next_token_logits(ids, mask.long(), new, image_embeds))  # [K, V]
    nll = F.cross_entropy(logits, ids[:, 1:][new], reduction="none")
    loss = (advantage[:, None].expand(new.shape)[new] * nll).mean()
    return scale_to_global_mean(loss, len(nll)) if whole_batch else loss, float(rewards.mean())
