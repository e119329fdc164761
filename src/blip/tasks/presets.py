"""Recipes as values: the original's YAML files that this version can run, and the one that made `tiny`. No torch.

`blip train --list` shows them; `--config preset:NAME` takes one, `--data`, `--val`, `-o` and `--set` complete it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A task's fields and the loop's, with what it is, what it reached and what it took."""

    task: str
    doc: str
    options: Mapping[str, Any]
    train: Mapping[str, Any]


_PRETRAIN_LOOP = {
    "epochs": 20, "batch_size": 600, "lr": 3e-4, "min_lr": 1e-6, "warmup_lr": 1e-6, "warmup_steps": 3000,
    "lr_decay_rate": 0.9, "weight_decay": 0.05, "schedule": "pretrain",
}  # fmt: skip
_CAPTION_LOOP = {
    "epochs": 5,
    "batch_size": 256,
    "lr": 1e-5,
    "min_lr": 0.0,
    "weight_decay": 0.05,
    "schedule": "cosine_epoch",
}

# What the stem knew of ImageNet stays in its early layers; only its last part follows the captions, slowly.
_STEM = "vision.stem."
_TINY_FROZEN = tuple(_STEM + part for part in ("conv", "blocks", "head", "classifier", "class_vectors"))
_TINY_LOW_STEM = tuple(
    _STEM + part for part in ("conv.", "classifier.", "class_vectors", *(f"blocks.{i}." for i in range(17)))
)
_TINY_RATES = (("*.cross*", 1.0), ("encoder.*", 0.4), ("decoder.*", 0.4))  # what starts random learns faster
# The decoder shares all but its self-attention and its head with the encoder: these can follow a reward alone.
_TINY_ALL_BUT_DECODER = (
    "vision.", "encoder.", "text_proj.", "itm_head.", "temperature", "decoder.embed.",
    *(f"decoder.blocks.{i}.{part}" for i in range(4) for part in ("cross", "mlp")),
)  # fmt: skip
_TINY_PHOTOS = {
    "max_length": 20, "min_scale": 0.6, "texts_per_image": 2, "same_image_ids": True, "queue_size": 2048,
    "negatives": {"floor": 0.02}, "imagined_per_image": 0.5,
    "imagined": "runs/tiny/imagined",  # of experiments/tiny/prepare.py, as is the model to start from
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    "pretrain": Preset(
        task="pretrain",
        doc="configs/pretrain.yaml of the original: ViT-B, 224 px, 20 epochs, 8 x 75. Paper: batch 2880, decay 0.85.",
        options={"start": {"size": "base"}, "queue_size": 57600, "alpha": 0.4},
        train=_PRETRAIN_LOOP,
    ),
    "pretrain-large": Preset(
        task="pretrain",
        doc="The paper's ViT-L: as pretrain with lr 2e-4 (paper section 4.1); batch 2400 there.",
        options={"start": {"size": "large"}, "queue_size": 57600, "alpha": 0.4},
        train={**_PRETRAIN_LOOP, "lr": 2e-4},
    ),
    "caption_coco": Preset(
        task="caption",
        doc="configs/caption_coco.yaml of the original: ViT-B, 384 px, 5 epochs, 8 x 32; BLEU-4 39.7, CIDEr 133.3.",
        options={"start": {"init": "pretrain-base-capfilt", "image_size": 384}, "prompt": "a picture of "},
        train=_CAPTION_LOOP,
    ),
    "caption_coco_large": Preset(
        task="caption",
        doc="ViT-L: lr 2e-6, the last 5 blocks checkpointed (comments of caption_coco.yaml); BLEU-4 40.4, CIDEr 136.7.",
        options={"start": {"init": "pretrain-large", "image_size": 384}, "prompt": "a picture of "},
        train={**_CAPTION_LOOP, "lr": 2e-6, "grad_checkpoint": 5},
    ),
    "tiny-1": Preset(
        task="pretrain",
        doc="First stage of `tiny`: ITC + ITM + LM on 6,000 photos over a frozen stem, captions of imagined photos.",
        options={
            **_TINY_PHOTOS, "start": {"init": "runs/tiny/init", "dropout": 0.0}, "freeze": _TINY_FROZEN,
            "rates": _TINY_RATES,
        },
        train={
            "epochs": 16, "batch_size": 64, "lr": 5e-4, "min_lr": 1e-5, "warmup_lr": 1e-5, "warmup_steps": 150,
            "weight_decay": 0.05, "schedule": "cosine_step", "max_grad_norm": 2.0, "dtype": "bf16", "ema": 0.995,
        },
    ),
    "tiny-2": Preset(
        task="pretrain",
        doc="Second stage of `tiny`: the stem's last part follows at a low rate, CIDEr as reward of sampled captions.",
        options={
            **_TINY_PHOTOS, "freeze": _TINY_LOW_STEM,
            # after 14 of the 16 epochs: later ones gained nothing on dev
            "start": {"init": "runs/tiny/stage1/checkpoints/step_1302", "dropout": 0.0},
            "rates": ((_STEM + "*", 0.1), *_TINY_RATES), "reward": {"samples": 4, "weight": 2.0},
            "texts_per_image": 1, "imagined_per_image": 0.25,
        },
        train={
            "epochs": 3, "batch_size": 64, "lr": 1e-4, "min_lr": 5e-6, "warmup_lr": 1e-6, "warmup_steps": 30,
            "weight_decay": 0.05, "schedule": "cosine_step", "max_grad_norm": 2.0, "dtype": "bf16", "ema": 0.99,
        },
    ),
    "tiny-3": Preset(
        task="pretrain",
        doc="Third stage of `tiny`: all losses with dropout, on what the stem has read (experiments/tiny/views.py).",
        options={
            **_TINY_PHOTOS, "freeze": _TINY_FROZEN, "rates": _TINY_RATES, "views": "runs/tiny/views.npy",
            "start": {"init": "runs/tiny/stage2/final", "dropout": 0.1}, "texts_per_image": 3,
            "imagined_per_image": 0.25,
        },
        train={
            "epochs": 7, "batch_size": 64, "lr": 4e-4, "min_lr": 1e-5, "warmup_lr": 1e-5, "warmup_steps": 60,
            "weight_decay": 0.05, "schedule": "cosine_step", "max_grad_norm": 2.0, "dtype": "fp32", "ema": 0.995,
        },
    ),
    "tiny-4": Preset(
        task="pretrain",
        doc="Fourth stage of `tiny`: the encoder's own weights and the heads, with the sentence encoder as teacher.",
        options={
            **_TINY_PHOTOS, "freeze": ("vision.", "decoder."), "views": "runs/tiny/views.npy",
            "start": {"init": "runs/tiny/average", "dropout": 0.1}, "texts_per_image": 1, "lm": False,
            "imagined": None, "teacher": "runs/tiny/teacher", "teacher_weight": 4.0,
        },
        train={
            "epochs": 6, "batch_size": 128, "lr": 3e-4, "min_lr": 1e-5, "warmup_lr": 1e-5, "warmup_steps": 20,
            "weight_decay": 0.05, "schedule": "cosine_step", "max_grad_norm": 2.0, "dtype": "fp32", "ema": 0.98,
        },
    ),
    "tiny-5": Preset(
        task="caption",
        doc="Fifth stage of `tiny`: CIDEr as reward of sampled captions, for the decoder's own weights alone.",
        options={
            "start": {"init": "runs/tiny/average", "dropout": 0.0}, "max_length": 20, "keep_parts": True,
            "views": "runs/tiny/views.npy", "reward": {"samples": 5, "top_k": 20, "weight": 20.0},
            "freeze": _TINY_ALL_BUT_DECODER,
        },
        train={
            "steps": 600, "batch_size": 32, "lr": 1.5e-4, "min_lr": 1e-5, "warmup_lr": 1e-6, "warmup_steps": 20,
            "weight_decay": 0.0, "schedule": "cosine_step", "max_grad_norm": 2.0, "dtype": "fp32", "ema": 0.98,
        },
    ),
}  # fmt: skip
