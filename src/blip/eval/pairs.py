"""Ranking of images and texts (blip-spec 5.3): the k best of each by cosine again by ITM logit + cosine, held sparse.

A pair's score does not depend on the direction, and an image's keys and values do not depend on the text. So each pair
is scored once, image by image, texts of all lengths in one pass without padding, and memory grows with the pairs alone.

Derived, not measured: COCO's 5k test (25,010 texts of 12.5 tokens), k = 256, ViT-B at 384 px has at most 30,010 * 256 =
7.7 M pairs of 2.6 GFLOP each (of the last layer first tokens only), and 5,000 images of 2 * 111 (vision, in both
stages) + 16 (keys and values): 20.9 PFLOP, 0.9 minutes at 40 % of an H100's 989 TFLOP/s in bfloat16. The original's
way, 7.7 M pairs of 24 GFLOP (keys and values for each of them, 35 tokens), takes 7.8 minutes at the same rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blip.eval.base import Tick
from blip.model.blip import BlipModel
from blip.model.layers import Attention
from blip.model.text import Cross, TextTransformer
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.errors import ConfigError, UsageError

TOP = 10  # so many of a ranking are kept
IMAGES_A_PASS = 16  # encoded together
TOKENS_A_PASS = 1 << 11  # bounds the memory of scoring; more would gain less than 1 %
TOKENS_A_GPU_PASS = 1 << 15  # with fewer it would wait for launches
COSINES_A_PASS = 1 << 24
STORE_BYTES = 2 << 30  # 1,200 photos of ViT-B at 384 px in float32

Encode = Callable[[Sequence[int]], Tensor]  # numbers of images -> their image_embeds [B, N, D]


@dataclass(frozen=True)
class Ranked:
    """For every query the rank of its first own one (0 = first), and the `TOP` first with their scores, best first.

    Ties count against, and what has no score, or one that is no number, comes behind all that has.
    """

    ranks: Tensor  # [Q]
    top: Tensor  # [Q, TOP] or fewer columns
    scores: Tensor


@dataclass(frozen=True)
class Pairs:
    """The pairs worth a second look, each once and ordered by image: images, texts, cosines [P], on the CPU.

    of_image [N, k], of_text [M, k]: places, in these, of the k best of each image and of each text.
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
) -> tuple[Ranked, Ranked]:
    """Texts ranked for each image, images for each text; k = 0 ranks by cosine alone.

    features: unit vectors [N, E], [M, E]. owners: the image that each text belongs to. encode: see `match_pairs`.
    """
    if not len(image_features) or not len(text_features):
        raise UsageError(f"{len(image_features)} images and {len(text_features)} texts to rank; must be one at least")
    if k == 0:
        return rank_by_cosine(image_features, text_features, owners)
    encoded = tokenizer.encode(texts, first="enc", max_length=max_length)
    pairs = best_pairs(image_features, text_features, k)
    return rank_by_score(pairs, match_pairs(model, encoded, pairs, encode, tick)[:, 1] + pairs.cosines, owners)


def best_pairs(image_features: Tensor, text_features: Tensor, k: int) -> Pairs:
    """The k best texts of each image and the k best images of each text, by cosine of unit vectors [N, E], [M, E]."""
    if k < 1:
        raise ConfigError(f"k {k}: must be at least 1")
    numbers = [torch.arange(len(x))[:, None] for x in (image_features, text_features)]
    there, texts = _nearest(image_features.float(), text_features.float(), k)
    back, images = _nearest(text_features.float(), image_features.float(), k)
    keys = torch.cat(
        [(numbers[0] * len(numbers[1]) + texts).flatten(), (images * len(numbers[1]) + numbers[1]).flatten()]
    )
    found, places = torch.unique(keys, return_inverse=True)
    of_image, of_text = places[: texts.numel()].view(texts.shape), places[texts.numel() :].view(images.shape)
    cosines = torch.empty(len(found))
    cosines[of_text], cosines[of_image] = back, there
    return Pairs(found // len(numbers[1]), found % len(numbers[1]), cosines, of_image, of_text)


def _nearest(queries: Tensor, others: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and numbers [Q, k] of the k others that are nearest to each query; on the CPU."""
    parts = torch.split(queries, max(1, COSINES_A_PASS // len(others)))
    found = [(part @ others.T).topk(min(k, len(others)), dim=1) for part in parts]
    return torch.cat([x.values for x in found]).cpu(), torch.cat([x.indices for x in found]).cpu()


@torch.no_grad()
def match_pairs(model: BlipModel, encoded: Encoded, pairs: Pairs, encode: Encode, tick: Tick | None = None) -> Tensor:
    """ITM logits [P, 2] of the pairs, float32, on the CPU.

    encoded: the texts, with [ENC] first. encode: asked once for every image, a few at a time, so that states need not
    be held (see `TokenStore`). tick: told the number of images done.
    """
    model.require("itm_head")
    ids, lengths = encoded.input_ids.to(model.device), encoded.attention_mask.sum(dim=1).cpu()
    count, logits = len(pairs.of_image), torch.empty(len(pairs.images), 2)
    bounds = torch.searchsorted(pairs.images, torch.arange(count + 1)).tolist()
    for start in range(0, count, IMAGES_A_PASS):
        numbers = range(start, min(start + IMAGES_A_PASS, count))
        for i, embeds in zip(numbers, torch.split(encode(numbers).to(model.device), 1), strict=True):
            places = slice(bounds[i], bounds[i + 1])
            logits[places] = _match(model, embeds, ids, lengths, pairs.texts[places])
        if tick:
            tick(numbers.stop, count)
    return logits


def _match(model: BlipModel, image_embeds: Tensor, ids: Tensor, lengths: Tensor, chosen: Tensor) -> Tensor:
    """ITM logits [K, 2] of one image [1, N, D] with the chosen texts, as many in a pass as their tokens allow."""
    cross = model.encoder.cross_keys_values(image_embeds)
    limit = TOKENS_A_PASS if ids.device.type == "cpu" else TOKENS_A_GPU_PASS
    order = lengths[chosen].argsort(stable=True)
    _, sizes = torch.unique_consecutive(lengths[chosen[order]].cumsum(0) // limit, return_counts=True)
    logits = torch.empty(len(chosen), 2)
    for places in torch.split(order, sizes.tolist()):
        known, counts = torch.unique_consecutive(lengths[chosen[places]], return_counts=True)
        rows = torch.split(ids[chosen[places].to(ids.device)], counts.tolist())
        texts = [row[:, :length] for row, length in zip(rows, known.tolist(), strict=True)]
        states = first_states(model.encoder, texts, cross)
        logits[places] = model.match_logits(states[:, None]).float().cpu()
    return logits


def first_states(encoder: TextTransformer, texts: Sequence[Tensor], cross: Sequence[Cross]) -> Tensor:
    """First tokens' states [R, D] of texts over one image, as `encoder(..., first_only=True)` gives them text by text.

    texts: ids [R_i, T_i], those of one length together. Their tokens lie side by side, so that all but self-attention
    is one operation on all of them and nothing is padding.
    """
    x = torch.cat([encoder.embed(ids, 0).flatten(0, 1) for ids in texts])[None]  # [1, tokens, D]
    shapes = [(ids.shape[0], ids.shape[1]) for ids in texts]
    for i, (block, kv) in enumerate(zip(encoder.blocks, cross, strict=True)):
        x = block.attn_norm(_attend_themselves(block.attn, x, shapes, first_only=i == len(encoder.blocks) - 1))
        x = block.cross_norm(x + block.cross_attend(x, kv, None))
        x = block.mlp_norm(x + block.mlp(x))
    return x[0]


def _attend_themselves(attention: Attention, x: Tensor, shapes: list[tuple[int, int]], *, first_only: bool) -> Tensor:
    """x [1, tokens, D] + its self-attention within each text; with `first_only` of first tokens: [1, R, D]."""
    keys, values = (_text_by_text(linear(x), shapes) for linear in (attention.k, attention.v))
    if first_only:
        x = torch.cat([part[:, 0] for part in _text_by_text(x, shapes)])[None]
        shapes = [(rows, 1) for rows, _ in shapes]
    found = []
    for parts in zip(_text_by_text(attention.q(x), shapes), keys, values, strict=True):
        q, k, v = map(attention.heads, parts)
        found.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1))
    return x + attention.out(torch.cat(found)[None])


def _text_by_text(x: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """[1, tokens, D] -> texts of each length [R_i, T_i, D]."""
    parts = torch.split(x[0], [rows * length for rows, length in shapes])
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


class TokenStore:
    """`encode` that remembers what it is given, within a budget of host memory, in the type it comes in.

    The other images are encoded again: next to matching an image with some hundred texts its tower costs little.
    """

    def __init__(self, encode: Encode, budget_bytes: int = STORE_BYTES) -> None:
        self.encode, self.room_bytes = encode, budget_bytes
        self._kept: dict[int, Tensor] = {}

    def add(self, numbers: Sequence[int], image_embeds: Tensor) -> None:
        """Keeps image_embeds [B, N, D] of the images with these numbers, if there is room for them."""
        if image_embeds.nbytes <= self.room_bytes:
            self.room_bytes -= image_embeds.nbytes
            self._kept |= zip(numbers, image_embeds.cpu(), strict=True)

    def __call__(self, numbers: Sequence[int]) -> Tensor:
        missing = [i for i in numbers if i not in self._kept]
        if not missing:
            return torch.stack([self._kept[i] for i in numbers])
        states = self.encode(missing)
        new = dict(zip(missing, states, strict=True))
        return torch.stack([new[i] if i in new else self._kept[i].to(states.device) for i in numbers])


def rank_by_score(pairs: Pairs, scores: Tensor, owners: Sequence[int]) -> tuple[Ranked, Ranked]:
    """By scores [P] of pairs: the k best texts ranked for each image, the k best images for each text."""
    owner, numbers = torch.as_tensor(owners), torch.arange(len(pairs.of_image))
    foreign = len(owner) - torch.bincount(owner, minlength=len(numbers))
    ways = (
        (pairs.of_image, pairs.texts, owner[pairs.texts[pairs.of_image]] == numbers[:, None], foreign),
        (pairs.of_text, pairs.images, pairs.images[pairs.of_text] == owner[:, None], torch.tensor(len(numbers) - 1)),
    )
    to_texts, to_images = (_ranked(scores[places], others[places], own, last) for places, others, own, last in ways)
    return to_texts, to_images


def rank_by_cosine(image_features: Tensor, text_features: Tensor, owners: Sequence[int]) -> tuple[Ranked, Ranked]:
    """By the cosine of unit vectors [N, E], [M, E] alone, a block of rows at a time: texts for images, and back."""
    images, texts = image_features.float(), text_features.float()
    owner, numbers = torch.as_tensor(owners, device=images.device), torch.arange(len(images), device=images.device)
    return _nearest_ranked(images, numbers, texts, owner), _nearest_ranked(texts, owner, images, numbers)


def _nearest_ranked(queries: Tensor, groups: Tensor, others: Tensor, other_groups: Tensor) -> Ranked:
    """All others ranked for each query; those of a query's group [Q] are its own."""
    some, numbers, found = max(1, COSINES_A_PASS // len(others)), torch.arange(len(others)), []
    for part, group in zip(torch.split(queries, some), torch.split(groups, some), strict=True):
        own = group[:, None] == other_groups
        found.append(_ranked(part @ others.T, numbers.to(own.device).expand(len(part), -1), own, (~own).sum(dim=1)))
    return Ranked(*(torch.cat([getattr(x, name) for x in found]) for name in ("ranks", "top", "scores")))


def _ranked(scores: Tensor, numbers: Tensor, own: Tensor, last: Tensor) -> Ranked:
    """Of scores, numbers and ownership [Q, C] of what was scored; last: the rank where nothing own was."""
    scores = scores.nan_to_num(nan=-torch.inf)
    best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    before = ((scores >= best) & ~own).sum(dim=1)
    top = scores.topk(min(TOP, scores.shape[1]), dim=1)
    ranks = torch.where(best[:, 0].isneginf(), last, before)
    return Ranked(ranks.cpu(), numbers.gather(1, top.indices).cpu(), top.values.cpu())
