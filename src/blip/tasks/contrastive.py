"""Contrastive and matching losses over a model, its momentum twin and a queue: what pre-training and retrieval share.

BLIP paper section 3.2; original: models/blip_pretrain.py and blip_retrieval.py, which differ in four points that are
arguments here: id-aware targets, where negatives are drawn from, a floor under their weights, one rank's or all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from blip.model.blip import BlipModel
from blip.model.layers import KV
from blip.model.losses import draw_negatives, hard_negative_weights, itc_loss, itm_loss, soft_targets
from blip.model.momentum import Twinned
from blip.runtime import gather, gather_with_grad, rank

TEMPERATURE_RANGE = (0.001, 0.5)


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """How hard negatives for ITM are drawn."""

    source: Literal["momentum", "online"] = "momentum"  # similarities to momentum features, or among online ones
    floor: float = 1e-4  # added to every weight
    all_ranks: bool = False


PRETRAIN_NEGATIVES = Negatives()


@dataclass(frozen=True)
class Contrast:
    """What ITC leaves behind for ITM and for the tests. Similarities are over temperature."""

    loss: Tensor
    sim_i2t: Tensor  # [B, B+Q]
    sim_t2i: Tensor
    targets_i2t: Tensor
    targets_t2i: Tensor
    image_features: Tensor  # [B, E], online
    text_features: Tensor


def contrast(
    twinned: Twinned,
    pixel_values: Tensor,
    image_embeds: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    alpha: float,
    image_ids: Tensor | None = None,
    grid: Tensor | None = None,
) -> Contrast:
    """ITC with momentum soft targets and queue; updates the twin first and the queue last, as the original.

    input_ids [B, T] with [CLS] first; image_ids [B]: equal ids are positives of each other (retrieval), None: only the
    pair itself (pre-training); grid: what a frozen stem has read of the photos, to spare the twin doing so again.
    """
    model, twin, queue = twinned.online, twinned.twin, twinned.queue
    with torch.no_grad():
        model.temperature.clamp_(*TEMPERATURE_RANGE)
    image = model.project_image(image_embeds).float()
    text = model.project_text(model.encode_text(input_ids, attention_mask, first_only=True)).float()
    with torch.no_grad():
        twin.update(model)
        image_m = twin.image_features(pixel_values, grid).float()
        text_m = twin.text_features(input_ids, attention_mask).float()
    with torch.autocast(pixel_values.device.type, enabled=False):
        temperature = model.temperature
        text_all = torch.cat([text_m.T, queue.text.detach().clone()], dim=1)  # [E, B+Q]
        image_all = torch.cat([image_m.T, queue.image.detach().clone()], dim=1)
        sim_i2t, sim_t2i = image @ text_all / temperature, text @ image_all / temperature
        with torch.no_grad():
            hard = hard_targets(len(image), text_all.shape[1], image_ids, queue.ids[0])
            targets_i2t = soft_targets(image_m @ text_all / temperature, hard, alpha)
            targets_t2i = soft_targets(text_m @ image_all / temperature, hard, alpha)
        loss = (itc_loss(sim_i2t, targets_i2t) + itc_loss(sim_t2i, targets_t2i)) / 2
    queue.push(gather(image_m), gather(text_m), None if image_ids is None else gather(image_ids))
    return Contrast(loss, sim_i2t, sim_t2i, targets_i2t, targets_t2i, image, text)


def hard_targets(rows: int, columns: int, image_ids: Tensor | None, queued_ids: Tensor) -> Tensor:
    """[B, B+Q], rows sum to 1: the pair itself, or every column of the same image."""
    if image_ids is None:
        return torch.eye(rows, columns, device=queued_ids.device)
    same = (image_ids[:, None] == torch.cat([image_ids, queued_ids])[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Drawn:
    """Weights [B, M] and draws [B] of the negatives; -1 where a row had no candidate."""

    weights_t2i: Tensor
    weights_i2t: Tensor
    images: Tensor  # for each text
    texts: Tensor  # for each image


def draw(
    itc: Contrast,
    temperature: Tensor,
    negatives: Negatives,
    image_ids: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Drawn:
    """Hard negatives: for each text an image, then for each image a text. No gradient."""
    rows = len(itc.image_features)
    with torch.no_grad(), torch.autocast(itc.sim_i2t.device.type, enabled=False):
        if negatives.source == "momentum":
            sim_i2t, sim_t2i = itc.sim_i2t[:, :rows], itc.sim_t2i[:, :rows]
            excluded = _same_pairs(rows, image_ids, itc.sim_i2t.device)
        else:
            pool = gather if negatives.all_ranks else _identity
            ids = torch.arange(rows, device=itc.sim_i2t.device) + rank() * rows if image_ids is None else image_ids
            excluded = ids[:, None] == pool(ids)[None, :]
            sim_i2t = itc.image_features @ pool(itc.text_features).T / temperature
            sim_t2i = itc.text_features @ pool(itc.image_features).T / temperature
        weights_i2t = hard_negative_weights(sim_i2t, excluded, negatives.floor)
        weights_t2i = hard_negative_weights(sim_t2i, excluded, negatives.floor)
        images = draw_negatives(weights_t2i, generator)
        texts = draw_negatives(weights_i2t, generator)
    return Drawn(weights_t2i, weights_i2t, images, texts)


def match(
    model: BlipModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    image_embeds: Tensor,
    drawn: Drawn,
    all_ranks: bool = False,
) -> tuple[Tensor, Tensor]:
    """ITM loss and logits: the B pairs, then the texts with negative images, then the images with negative texts.

    input_ids [B, T] with [ENC] first. Each image's keys and values are computed once and picked by index; rows
    without a candidate (-1) are left out.
    """
    rows = len(input_ids)
    pool_embeds = gather_with_grad(image_embeds) if all_ranks else image_embeds
    pool_ids, pool_mask = (gather(input_ids), gather(attention_mask)) if all_ranks else (input_ids, attention_mask)
    own = torch.arange(rows, device=input_ids.device)
    has_image, has_text = own[drawn.images >= 0], own[drawn.texts >= 0]
    ids = torch.cat([input_ids, input_ids[has_image], pool_ids[drawn.texts[has_text]]])
    mask = torch.cat([attention_mask, attention_mask[has_image], pool_mask[drawn.texts[has_text]]])
    offset = rank() * rows if all_ranks else 0
    images = torch.cat([own + offset, drawn.images[has_image], has_text + offset])
    cross = [(kv[0][images], kv[1][images]) for kv in cast(list[KV], model.encoder.cross_keys_values(pool_embeds))]
    logits = model.match_logits(model.encoder(ids, mask, cross=cross, first_only=True)).float()
    return itm_loss(logits, rows), logits


def _same_pairs(rows: int, image_ids: Tensor | None, device: torch.device) -> Tensor:
    """Which pairs [B, B] are of one image."""
    if image_ids is None:
        return torch.eye(rows, dtype=torch.bool, device=device)
    return image_ids[:, None] == image_ids[None, :]


def _identity(x: Tensor) -> Tensor:
    return x
