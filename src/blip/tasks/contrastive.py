"""Contrastive and matching losses of pre-training and retrieval, with momentum encoders and a queue.

BLIP paper section 3.2; original: models/blip_pretrain.py and blip_retrieval.py, which differ in four points that are
arguments here: id-aware targets, source of negatives, floor of their weights, negatives of one rank or of all. Beyond
the original, `whole_batch` computes the losses of one process whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blip.distributed import (
    all_reduce_max,
    broadcast_from_rank0,
    gather,
    gather_with_grad,
    rank,
    scale_to_global_mean,
    world_size,
)
from blip.model.blip import BlipModel
from blip.model.losses import draw_negatives, hard_negative_weights, itc_loss, itm_loss, soft_targets
from blip.model.momentum import MomentumModel
from blip.tasks.images import with_first


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Drawing of hard negatives for ITM."""

    source: Literal["momentum", "online"] = "momentum"  # similarity to momentum features, or between online ones
    floor: float = 1e-4  # added to each weight
    all_ranks: bool = False


PRETRAIN_NEGATIVES = Negatives()


@dataclass(frozen=True)
class Contrast:
    """Outputs of ITC, for ITM. Similarities are divided by the temperature.

    The M columns before the queue are the rows of all processes with `whole_batch`, else the B rows of this process.
    """

    loss: Tensor
    sim_i2t: Tensor  # [B, M+Q]
    sim_t2i: Tensor
    targets_i2t: Tensor
    targets_t2i: Tensor
    image_features: Tensor  # [B, E], online
    text_features: Tensor
    whole_batch: bool


@dataclass(frozen=True)
class ImageTextLosses:
    """ITC and ITM of a batch, with the intermediate results that other losses use.

    grid: input of the ViT's blocks [B, C, s, s]; text_features: unit vectors [B, E].
    """

    itc: Tensor
    itm: Tensor
    grid: Tensor
    image_embeds: Tensor  # [B, N, D]
    text_features: Tensor


def image_text_losses(
    momentum_model: MomentumModel,
    batch: Mapping[str, Any],
    alpha: float,
    negatives: Negatives,
    image_ids: Tensor | None,
    whole_batch: bool,
) -> ImageTextLosses:
    """ITC and ITM of a batch of `blip.tasks.images.collate_pairs`; arguments as for `contrast`."""
    model, pixels = momentum_model.model, batch["pixel_values"]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    grid, class_tokens = model.vision.read_pixels(pixels)
    embeds = model.vision.encode_grid(grid, class_tokens)
    frozen = None if grid.requires_grad else grid
    itc = contrast(momentum_model, pixels, embeds, ids, mask, alpha, image_ids, frozen, whole_batch)
    drawn = draw_hard_negatives(itc, model.temperature, negatives, image_ids)
    itm, _ = match(model, with_first(ids, model.config.text.enc_id), mask, embeds, drawn)
    return ImageTextLosses(itc.loss, itm, grid, embeds, itc.text_features)


def validation_losses(model: BlipModel, batch: Mapping[str, Any], image_ids: Tensor) -> ImageTextLosses:
    """ITC and ITM among the rows of a batch of `collate_pairs`: no momentum model, no queue, the same negatives always.

    Losses of different steps are comparable, unlike those of training, which depend on the queue.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    grid, class_tokens = model.vision.read_pixels(batch["pixel_values"])
    embeds = model.vision.encode_grid(grid, class_tokens)
    image, text = model.project_image(embeds).float(), model.project_text(model.encode_text(ids, mask, first_only=True))
    sim = image @ text.float().T / model.temperature
    targets = hard_targets(len(image), len(image), image_ids, image_ids[:0])
    loss = (itc_loss(sim, targets) + itc_loss(sim.T, targets)) / 2
    itc = Contrast(loss, sim, sim.T, targets, targets, image, text.float(), whole_batch=False)
    generator = torch.Generator().manual_seed(0)
    negatives = Negatives(source="online", floor=0.0)
    drawn = draw_hard_negatives(itc, model.temperature, negatives, image_ids, generator)
    itm, _ = match(model, with_first(ids, model.config.text.enc_id), mask, embeds, drawn)
    return ImageTextLosses(loss, itm, grid, embeds, itc.text_features)


def contrast(
    momentum_model: MomentumModel,
    pixel_values: Tensor,
    image_embeds: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    alpha: float,
    image_ids: Tensor | None = None,
    grid: Tensor | None = None,
    whole_batch: bool = False,
) -> Contrast:
    """ITC with momentum soft targets and queue; updates the queue last. Call `momentum_model.before_step` first.

    input_ids [B, T] with [CLS] first. image_ids [B]: images with equal ids are positives of each other (retrieval);
    None: only the pair itself (pre-training). grid: output of a frozen stem, reused by the momentum encoders.
    whole_batch: contrast with the momentum features of all processes (original: of this process).
    """
    model, encoders, queue = momentum_model.model, momentum_model.momentum_encoders, momentum_model.queue
    image = model.project_image(image_embeds).float()
    text = model.project_text(model.encode_text(input_ids, attention_mask, first_only=True)).float()
    with torch.no_grad():
        image_m = encoders.image_features(pixel_values, grid).float()
        text_m = encoders.text_features(input_ids, attention_mask).float()
    images, texts, ids = gather(image_m), gather(text_m), None if image_ids is None else gather(image_ids)
    batch_images, batch_texts, batch_ids = (images, texts, ids) if whole_batch else (image_m, text_m, image_ids)
    first = rank() * len(image) if whole_batch else 0
    with torch.autocast(pixel_values.device.type, enabled=False):
        temperature = model.temperature
        text_all = torch.cat([batch_texts.T, queue.text.detach().clone()], dim=1)  # [E, M+Q]
        image_all = torch.cat([batch_images.T, queue.image.detach().clone()], dim=1)
        sim_i2t, sim_t2i = image @ text_all / temperature, text @ image_all / temperature
        with torch.no_grad():
            hard = hard_targets(len(image), text_all.shape[1], image_ids, queue.ids[0], batch_ids, first)
            targets_i2t = soft_targets(image_m @ text_all / temperature, hard, alpha)
            targets_t2i = soft_targets(text_m @ image_all / temperature, hard, alpha)
        loss = (itc_loss(sim_i2t, targets_i2t) + itc_loss(sim_t2i, targets_t2i)) / 2
    queue.push(images, texts, ids)
    return Contrast(loss, sim_i2t, sim_t2i, targets_i2t, targets_t2i, image, text, whole_batch)


def hard_targets(
    rows: int,
    columns: int,
    image_ids: Tensor | None,
    queued_ids: Tensor,
    batch_ids: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Targets [B, M+Q], rows sum to 1: the pair itself (row 0 in column `first`), or all columns of the same image.

    batch_ids: ids [M] of the columns before the queue; None = ids of the rows.
    """
    if image_ids is None:
        return F.one_hot(torch.arange(first, first + rows, device=queued_ids.device), columns).float()
    batch_ids = image_ids if batch_ids is None else batch_ids
    same = (image_ids[:, None] == torch.cat([batch_ids, queued_ids])[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class HardNegatives:
    """Weights [B, M] and indices [B] of the negatives; -1 for rows without a candidate.

    all_ranks: the M candidates are the rows of all processes. whole_batch: as for `Contrast`.
    """

    weights_t2i: Tensor
    weights_i2t: Tensor
    images: Tensor  # for each text
    texts: Tensor  # for each image
    all_ranks: bool
    whole_batch: bool


def draw_hard_negatives(
    itc: Contrast,
    temperature: Tensor,
    negatives: Negatives,
    image_ids: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> HardNegatives:
    """Draw an image for each text, then a text for each image. No gradient.

    With `whole_batch` the first process draws for all.
    """
    rows = len(itc.image_features)
    all_ranks = itc.whole_batch or (negatives.source == "online" and negatives.all_ranks)
    pool = gather if all_ranks else _identity
    with torch.no_grad(), torch.autocast(itc.sim_i2t.device.type, enabled=False):
        ids = torch.arange(rows, device=itc.sim_i2t.device) + rank() * rows if image_ids is None else image_ids
        excluded = ids[:, None] == pool(ids)[None, :]
        if negatives.source == "momentum":
            sim_i2t, sim_t2i = itc.sim_i2t[:, : excluded.shape[1]], itc.sim_t2i[:, : excluded.shape[1]]
        else:
            sim_i2t = itc.image_features @ pool(itc.text_features).T / temperature
            sim_t2i = itc.text_features @ pool(itc.image_features).T / temperature
        weights_i2t = hard_negative_weights(sim_i2t, excluded, negatives.floor)
        weights_t2i = hard_negative_weights(sim_t2i, excluded, negatives.floor)
        images, texts = (_draw_rows(w, itc.whole_batch, generator) for w in (weights_t2i, weights_i2t))
    return HardNegatives(weights_t2i, weights_i2t, images, texts, all_ranks, itc.whole_batch)


def _draw_rows(weights: Tensor, whole_batch: bool, generator: torch.Generator | None) -> Tensor:
    if not whole_batch or world_size() == 1:
        return draw_negatives(weights, generator)
    drawn = broadcast_from_rank0(draw_negatives(gather(weights), generator))
    return drawn[rank() * len(weights) : (rank() + 1) * len(weights)]


def match(
    model: BlipModel, input_ids: Tensor, attention_mask: Tensor, image_embeds: Tensor, negatives: HardNegatives
) -> tuple[Tensor, Tensor]:
    """Return ITM loss and logits of the B pairs, then texts with negative images, then images with negative texts.

    input_ids [B, T] with [ENC] first. Keys and values of each image are computed once and selected by index; rows
    without a negative (-1) are left out.
    """
    rows, offset = len(input_ids), 0
    pool_embeds, pool_ids, pool_mask = image_embeds, input_ids, attention_mask
    if negatives.all_ranks:
        offset, pool_embeds = rank() * rows, gather_with_grad(image_embeds)
        length = all_reduce_max(input_ids.shape[1])  # each process has padded to its longest text
        input_ids, attention_mask = (F.pad(x, (0, length - x.shape[1])) for x in (input_ids, attention_mask))
        pool_ids, pool_mask = gather(input_ids), gather(attention_mask)
    pairs = torch.arange(rows, device=input_ids.device)
    has_image, has_text = pairs[negatives.images >= 0], pairs[negatives.texts >= 0]
    ids = torch.cat([input_ids, input_ids[has_image], pool_ids[negatives.texts[has_text]]])
    mask = torch.cat([attention_mask, attention_mask[has_image], pool_mask[negatives.texts[has_text]]])
    images = torch.cat([pairs + offset, negatives.images[has_image], has_text + offset])
    cross = [(kv[0][images], kv[1][images]) for kv in model.encoder.cross_keys_values(pool_embeds)]
    logits = model.match_logits(model.encoder(ids, mask, cross=cross, first_only=True)).float()
    loss = itm_loss(logits, rows)
    return scale_to_global_mean(loss, len(logits)) if negatives.whole_batch else loss, logits


def _identity(x: Tensor) -> Tensor:
    return x
