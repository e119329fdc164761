"""Default batch size and length of a run: from the data, and on a GPU from its memory and the model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from blip.model.blip import BlipModel
from blip.train.config import TrainConfig
from blip_lite.config import BlipConfig

CPU_RANGE = (8, 32)  # samples per step
GPU_MAX = 256  # samples per GPU
STEPS_PER_EPOCH = 20  # at least, if the data allow
TOKENS = 40  # per text
EPOCHS, MIN_STEPS, EVALUATIONS = 5, 40, 8  # of a run without a given length


def length(config: TrainConfig, steps_per_epoch: int) -> TrainConfig:
    """Return the config with a length: five epochs, or 40 steps for little data, evaluated eight times."""
    if config.epochs is not None or config.steps is not None:
        return config
    if EPOCHS * steps_per_epoch >= MIN_STEPS:
        return replace(config, epochs=EPOCHS)
    every = config.eval_every or MIN_STEPS // EVALUATIONS
    return replace(config, steps=MIN_STEPS, eval_every=every, save_every=config.save_every or every)


def batch_size(
    samples: int, shares: int, model: nn.Module, device: torch.device, dtype: torch.dtype
) -> tuple[int, str]:
    """Return the samples per step, a multiple of `shares` (processes times parts), and the reason."""
    if device.type != "cuda":
        return _for_data(samples, shares, *CPU_RANGE, f"from {CPU_RANGE[0]} to {CPU_RANGE[1]} on a CPU")
    free, _ = torch.cuda.mem_get_info(device)
    limit, reason = _fitting(free, model, dtype)
    return _for_data(samples, shares, min(CPU_RANGE[0], limit), limit * shares, reason)


def _for_data(samples: int, shares: int, lower: int, upper: int, limits: str) -> tuple[int, str]:
    size = min(max(lower, samples // STEPS_PER_EPOCH), upper, samples)
    return max(size - size % shares, shares), f"a {STEPS_PER_EPOCH}th of {samples} samples, {limits}"


def _fitting(free: int, model: nn.Module, dtype: torch.dtype) -> tuple[int, str]:
    """Number of samples that fit beside gradients and optimizer state: a power of 2, with a margin."""
    blip = next(module for module in model.modules() if isinstance(module, BlipModel))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_sample = sample_bytes(blip.config, dtype.itemsize)
    count = max(1, int((0.8 * free - 12 * trained) / per_sample))  # 4 bytes of gradient, 8 of optimizer state
    limit = min(GPU_MAX, 1 << (count.bit_length() - 1))
    return limit, f"at most {limit} per GPU: {free / 1e9:.0f} GB free, about {per_sample / 1e6:.0f} MB per sample"


def sample_bytes(config: BlipConfig, size: int) -> int:
    """Estimate the activation memory of one sample until the backward pass; size: bytes per number.

    A transformer layer keeps about 24 numbers per number of its input (without attention scores, which a GPU
    recomputes), with cross-attention 35. For the captioner at 384 pixels in float32 this estimates 620 MB; 636 MB were
    measured. The text side runs once per loss, three times in matching, each time with keys and values of the image.
    """
    vision, text, parts = config.vision, config.text, config.parts
    images = 2 if parts.encoder_reads == "two images" else 1
    passes = (5 if parts.matching else 1) + (1 if parts.decoder_reads and parts.encoder_reads else 0)
    numbers = images * vision.num_layers * vision.num_tokens * vision.width * 24
    keys = 2 * images * vision.num_tokens * text.width
    numbers += passes * text.num_layers * (TOKENS * text.width * 35 + keys)
    scores = 3 * 4 * TOKENS * text.vocab_size if parts.decoder_reads else 0
    return numbers * size + scores
