"""A first guess of the batch size, for who gives none: from the data, and on a GPU from its memory and the model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from blip.model.blip import BlipModel
from blip.train.config import TrainConfig
from blip_lite.config import BlipConfig

CPU_RANGE = (8, 32)  # samples a step
GPU_MOST = 256  # on each
STEPS = 20  # that an epoch should have, so that there is something to learn in it
WORDS = 40  # tokens of a text
EPOCHS, LEAST_STEPS, EVALUATIONS = 5, 100, 5  # of a run whose length nobody has given


def length(config: TrainConfig, steps_per_epoch: int) -> TrainConfig:
    """The config with a length: five epochs, of few data more, so that something is learnt; evaluated five times."""
    if config.epochs is not None or config.steps is not None:
        return config
    if EPOCHS * steps_per_epoch >= LEAST_STEPS:
        return replace(config, epochs=EPOCHS)
    every = config.eval_every or LEAST_STEPS // EVALUATIONS
    return replace(config, steps=LEAST_STEPS, eval_every=every, save_every=config.save_every or every)


def batch_size(
    samples: int, shares: int, model: nn.Module, device: torch.device, dtype: torch.dtype
) -> tuple[int, str]:
    """Samples of a step, a multiple of `shares` (processes times parts), and why. No more than there are."""
    if device.type != "cuda":
        return _for_data(samples, shares, *CPU_RANGE, f"from {CPU_RANGE[0]} to {CPU_RANGE[1]} on a CPU")
    free, _ = torch.cuda.mem_get_info(device)
    most, reason = _fitting(free, model, dtype)
    return _for_data(samples, shares, min(CPU_RANGE[0], most), most * shares, reason)


def _for_data(samples: int, shares: int, least: int, most: int, limits: str) -> tuple[int, str]:
    wanted = min(max(least, samples // STEPS), most, samples)
    return max(wanted - wanted % shares, shares), f"a {STEPS}th of {samples} samples, {limits}"


def _fitting(free: int, model: nn.Module, dtype: torch.dtype) -> tuple[int, str]:
    """How many samples fit beside gradients and optimizer: a power of 2, with some memory to spare."""
    blip = next(module for module in model.modules() if isinstance(module, BlipModel))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    each = sample_bytes(blip.config, dtype.itemsize)
    fit = max(1, int((0.8 * free - 12 * trained) / each))  # 4 bytes of gradient, 8 of optimizer
    most = min(GPU_MOST, 1 << (fit.bit_length() - 1))
    return most, f"at most {most} a GPU: {free / 1e9:.0f} GB are free, a sample takes about {each / 1e6:.0f} MB"


def sample_bytes(config: BlipConfig, size: int) -> int:
    """About what one sample's activations take until the backward pass; size: bytes of a number.

    A transformer layer keeps some 24 numbers for every number of its input (without the attention scores, which a GPU
    computes again), one with cross-attention 35. For the captioner at 384 pixels in float32 that makes 620 MB, where
    636 were counted. The text side runs once for every loss, in matching three times, each with keys and values of the
    image.
    """
    vision, text, parts = config.vision, config.text, config.parts
    images = 2 if parts.encoder_reads == "two images" else 1
    passes = (5 if parts.matching else 1) + (1 if parts.decoder_reads and parts.encoder_reads else 0)
    numbers = images * vision.num_layers * vision.num_tokens * vision.width * 24
    keys = 2 * images * vision.num_tokens * text.width
    numbers += passes * text.num_layers * (WORDS * text.width * 35 + keys)
    scores = 3 * 4 * WORDS * text.vocab_size if parts.decoder_reads else 0
    return numbers * size + scores
