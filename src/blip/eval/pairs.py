"""Ranking of images and texts (blip-spec 5.3): the k best of each by cosine, re-ranked by ITM logit + cosine, sparse.

The score of a pair does not depend on the direction, and the keys and values of an image do not depend on the text. So
each pair is scored once, image by image, with texts of all lengths in one pass without padding, and memory grows with
the number of pairs alone.

Derived, not measured: COCO's 5k test (25,010 texts of 12.5 tokens), k = 256, ViT-B at 384 px has at most 30,010 * 256 =
7.7 M pairs of 2.6 GFLOP each (only first tokens in the last layer), and 5,000 images of 2 * 111 (vision, in both
stages) + 16 (keys and values): 20.9 PFLOP, 0.9 minutes at 40 % of an H100's 989 TFLOP/s in bfloat16. The original
needs 24 GFLOP per pair (keys and values for each, 35 tokens), which takes 7.8 minutes at the same rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blip.eval.base import Tick
from blip.model import ragged
from blip.model.blip import BlipModel
from blip.model.ragged import TOKENS_PER_PASS
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.errors import CheckpointError, ConfigError, UsageError

TOP = 10  # entries kept of a ranking
IMAGES_PER_PASS = 16  # encoded together
TOKENS_PER_GPU_PASS = 1 << 15  # fewer would be limited by kernel launches
COSINES_PER_PASS = 1 << 24
STORE_BYTES = 2 << 30  # 1,200 images of ViT-B at 384 px in float32

Encode = Callable[[Sequence[int]], Tensor]  # image numbers -> image_embeds [B, N, D]


@dataclass(frozen=True)
class Ranking:
    """Rank of the first correct item per query (0 = first), and the `TOP` best items with their scores, best first.

    Ties count against the correct item; items without a score, or with NaN, come last.
    """

    ranks: Tensor  # [Q]
    top: Tensor  # [Q, TOP] or fewer columns
    scores: Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs to score, each once and ordered by image: images, texts, cosines [P], on the CPU.

    of_image [N, k], of_text [M, k]: indices of the k best pairs of each image and of each text.
    """

    images: Tensor
    texts: Tensor
    cosines: Tensor
    of_image: Tensor
    of_text: Tensor


def rank_pairs(
    model: BlipModel,
    tokenizer: Tokenizer,
    encode: Encode,
    image_features: Tensor,
    text_features: Tensor,
    texts: Sequence[str],
    owners: Sequence[int],
    *,
    k: int,
    max_length: int = 35,
    tick: Tick | None = None,
) -> tuple[Ranking, Ranking]:
    """Rank texts for each image and images for each text; k = 0 ranks by cosine alone.

    features: unit vectors [N, E], [M, E]. owners: number of the image of each text. encode: see `match_pairs`.
    """
    if not len(image_features) or not len(text_features):
        raise UsageError(
            f"{len(image_features)} images and {len(text_features)} texts to rank; must be at least 1 of each"
        )
    _require_finite(image_features, text_features)
    if k == 0:
        return rank_by_cosine(image_features, text_features, owners)
    encoded = tokenizer.encode(texts, first="enc", max_length=max_length)
    pairs = best_pairs(image_features, text_features, k)
    scores = match_pairs(model, encoded, pairs, encode, tick)[:, 1] + pairs.cosines
    _require_finite(scores)
    return rank_by_score(pairs, scores, owners)


def _require_finite(*values: Tensor) -> None:
    """Raise CheckpointError if a model computes scores that cannot be ranked."""
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise CheckpointError("the model computes scores that are not finite numbers: its weights are damaged")


def best_pairs(image_features: Tensor, text_features: Tensor, k: int) -> Pairs:
    """Return the k best texts of each image and images of each text, by cosine of unit vectors [N, E], [M, E]."""
    if k < 1:
        raise ConfigError(f"k {k}: must be at least 1")
    image_numbers, text_numbers = (torch.arange(len(x))[:, None] for x in (image_features, text_features))
    cosines_of_image, texts = _nearest(image_features.float(), text_features.float(), k)
    cosines_of_text, images = _nearest(text_features.float(), image_features.float(), k)
    count = len(text_numbers)
    keys = torch.cat([(image_numbers * count + texts).flatten(), (images * count + text_numbers).flatten()])
    unique, indices = torch.unique(keys, return_inverse=True)
    of_image, of_text = indices[: texts.numel()].view(texts.shape), indices[texts.numel() :].view(images.shape)
    cosines = torch.empty(len(unique))
    cosines[of_text], cosines[of_image] = cosines_of_text, cosines_of_image
    return Pairs(unique // count, unique % count, cosines, of_image, of_text)


def _nearest(queries: Tensor, others: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return cosines and numbers [Q, k] of the k nearest others of each query, on the CPU."""
    parts = torch.split(queries, max(1, COSINES_PER_PASS // len(others)))
    with torch.autocast(queries.device.type, enabled=False):  # 8 bits of a cosine do not rank thousands of texts
        nearest = [(part @ others.T).topk(min(k, len(others)), dim=1) for part in parts]
    return torch.cat([x.values for x in nearest]).cpu(), torch.cat([x.indices for x in nearest]).cpu()


@torch.no_grad()
def match_pairs(model: BlipModel, encoded: Encoded, pairs: Pairs, encode: Encode, tick: Tick | None = None) -> Tensor:
    """Return the ITM logits [P, 2] of the pairs, float32, on the CPU.

    encoded: the texts, [ENC] first. encode: called once for every image, with a few images at a time, so that not all
    states are in memory (see `TokenStore`). tick: called with the number of images done.
    """
    model.require("itm_head")
    ids, lengths = encoded.input_ids.to(model.device), encoded.attention_mask.sum(dim=1).cpu()
    count, logits = len(pairs.of_image), torch.empty(len(pairs.images), 2)
    bounds = torch.searchsorted(pairs.images, torch.arange(count + 1)).tolist()
    for start in range(0, count, IMAGES_PER_PASS):
        numbers = range(start, min(start + IMAGES_PER_PASS, count))
        for i, embeds in zip(numbers, torch.split(encode(numbers).to(model.device), 1), strict=True):
            rows = slice(bounds[i], bounds[i + 1])
            logits[rows] = _match(model, embeds, ids, lengths, pairs.texts[rows])
        if tick:
            tick(numbers.stop, count)
    return logits


def _match(model: BlipModel, image_embeds: Tensor, ids: Tensor, lengths: Tensor, chosen: Tensor) -> Tensor:
    """ITM logits [K, 2] of one image [1, N, D] with the chosen texts."""
    cross = model.encoder.cross_keys_values(image_embeds)
    limit = TOKENS_PER_PASS if ids.device.type == "cpu" else TOKENS_PER_GPU_PASS
    logits = torch.empty(len(chosen), 2)
    for indices, texts in ragged.passes(ids[chosen.to(ids.device)], lengths[chosen], limit):
        states = ragged.encode(model.encoder, texts, cross, first_only=True)
        logits[indices] = model.match_logits(torch.cat(states)).float().cpu()
    return logits


class TokenStore:
    """An `Encode` function that caches the image_embeds added to it, within a budget of host memory.

    Other images are encoded again, which costs little compared with matching an image with hundreds of texts.
    """

    def __init__(self, encode: Encode, budget_bytes: int = STORE_BYTES) -> None:
        self.encode, self.free_bytes = encode, budget_bytes
        self._cache: dict[int, Tensor] = {}

    def add(self, numbers: Sequence[int], image_embeds: Tensor) -> None:
        """Cache image_embeds [B, N, D] of the images with these numbers if they fit."""
        if image_embeds.nbytes <= self.free_bytes:
            self.free_bytes -= image_embeds.nbytes
            self._cache |= zip(numbers, image_embeds.cpu(), strict=True)

    def __call__(self, numbers: Sequence[int]) -> Tensor:
        missing = [i for i in numbers if i not in self._cache]
        if not missing:
            return torch.stack([self._cache[i] for i in numbers])
        states = self.encode(missing)
        new = dict(zip(missing, states, strict=True))
        return torch.stack([new[i] if i in new else self._cache[i].to(states.device) for i in numbers])


def rank_by_score(pairs: Pairs, scores: Tensor, owners: Sequence[int]) -> tuple[Ranking, Ranking]:
    """Rank the k best texts of each image, and images of each text, by the scores [P] of pairs."""
    owner, numbers = torch.as_tensor(owners), torch.arange(len(pairs.of_image))
    other_texts = len(owner) - torch.bincount(owner, minlength=len(numbers))
    of_image, of_text = pairs.of_image, pairs.of_text
    correct_texts, correct_images = (
        owner[pairs.texts[of_image]] == numbers[:, None],
        pairs.images[of_text] == owner[:, None],
    )
    return (
        _ranking(scores[of_image], pairs.texts[of_image], correct_texts, other_texts),
        _ranking(scores[of_text], pairs.images[of_text], correct_images, torch.tensor(len(numbers) - 1)),
    )


def rank_by_cosine(image_features: Tensor, text_features: Tensor, owners: Sequence[int]) -> tuple[Ranking, Ranking]:
    """Rank texts for images and images for texts by the cosine of unit vectors [N, E], [M, E], in blocks of rows."""
    images, texts = image_features.float(), text_features.float()
    owner, numbers = torch.as_tensor(owners, device=images.device), torch.arange(len(images), device=images.device)
    return _rank_all(images, numbers, texts, owner), _rank_all(texts, owner, images, numbers)


def _rank_all(queries: Tensor, groups: Tensor, others: Tensor, other_groups: Tensor) -> Ranking:
    """Rank all others for each query; those of the group [Q] of a query are correct."""
    size, numbers, parts = max(1, COSINES_PER_PASS // len(others)), torch.arange(len(others)), []
    for part, group in zip(torch.split(queries, size), torch.split(groups, size), strict=True):
        correct = group[:, None] == other_groups
        items = numbers.to(correct.device).expand(len(part), -1)
        parts.append(_ranking(part @ others.T, items, correct, (~correct).sum(dim=1)))
    return Ranking(*(torch.cat([getattr(part, name) for part in parts]) for name in ("ranks", "top", "scores")))


def _ranking(scores: Tensor, items: Tensor, correct: Tensor, last: Tensor) -> Ranking:
    """Ranking from scores, item numbers and correctness [Q, C]; last: rank of queries without a correct item."""
    scores = scores.nan_to_num(nan=-torch.inf)
    best = scores.masked_fill(~correct, -torch.inf).amax(dim=1, keepdim=True)
    before = ((scores >= best) & ~correct).sum(dim=1)
    top = scores.topk(min(TOP, scores.shape[1]), dim=1)
    ranks = torch.where(best[:, 0].isneginf(), last, before)
    return Ranking(ranks.cpu(), items.gather(1, top.indices).cpu(), top.values.cpu())
