"""The recipes that made the bundled `tiny`, stage by stage (experiments/tiny), as values. No torch."""

from __future__ import annotations

from blip.tasks.preset import Preset

# What the stem knew of ImageNet stays in its early layers; only its last part follows the captions, slowly.
_STEM = "vision.stem."
_TINY_FROZEN = tuple(_STEM + part for part in ("conv", "blocks", "head", "classifier", "class_vectors"))
_TINY_LOW_STEM = tuple(
    _STEM + part for part in ("conv.", "classifier.", "class_vectors", *(f"blocks.{i}." for i in range(17)))
)
_TINY_RATES = (("*.cross*", 1.0), ("encoder.*", 0.4), ("decoder.*", 0.4))  # what starts random learns faster
# The decoder shares all but its self-attention and its head with the encoder: these can follow a reward alone.
_TINY_ALL_BUT_DECODER = (
    "vision.",
    "encoder.",
    "text_proj.",
    "itm_head.",
    "temperature",
    "decoder.embed.",
    *(f"decoder.blocks.{i}.{part}" for i in range(4) for part in ("cross", "mlp")),
)
_TINY_PHOTOS = {
    "max_length": 20,
    "augment": {"min_scale": 0.6},
    "texts_per_image": 2,
    "same_image_ids": True,
    "queue_size": 2048,
    "negatives": {"floor": 0.02},
    "imagined_per_image": 0.5,
    "imagined": "runs/tiny/imagined",  # of experiments/tiny/prepare.py, as is the model to start from
}

TINY: dict[str, Preset] = {
    "tiny-1": Preset(
        task="pretrain",
        doc="First stage of `tiny`: ITC + ITM + LM on 6,000 photos over a frozen stem, captions of imagined photos.",
        options={
            **_TINY_PHOTOS,
            "start": {"init": "runs/tiny/init", "dropout": 0.0},
            "tune": {"freeze": _TINY_FROZEN, "rates": _TINY_RATES},
        },
        train={
            "epochs": 16,
            "batch_size": 64,
            "lr": 5e-4,
            "min_lr": 1e-5,
            "warmup_lr": 1e-5,
            "warmup_steps": 150,
            "weight_decay": 0.05,
            "schedule": "cosine_step",
            "max_grad_norm": 2.0,
            "dtype": "bf16",
            "ema": 0.995,
        },
    ),
    "tiny-2": Preset(
        task="pretrain",
        doc="Second stage of `tiny`: the stem's last part follows at a low rate, CIDEr as reward of sampled captions.",
        options={
            **_TINY_PHOTOS,
            "tune": {"freeze": _TINY_LOW_STEM, "rates": ((_STEM + "*", 0.1), *_TINY_RATES)},
            # after 14 of the 16 epochs: later ones gained nothing on dev
            "start": {"init": "runs/tiny/stage1/checkpoints/step_1302", "dropout": 0.0},
            "reward": {"samples": 4, "weight": 2.0},
            "texts_per_image": 1,
            "imagined_per_image": 0.25,
        },
        train={
            "epochs": 3,
            "batch_size": 64,
            "lr": 1e-4,
            "min_lr": 5e-6,
            "warmup_lr": 1e-6,
            "warmup_steps": 30,
            "weight_decay": 0.05,
            "schedule": "cosine_step",
            "max_grad_norm": 2.0,
            "dtype": "bf16",
            "ema": 0.99,
        },
    ),
    "tiny-3": Preset(
        task="pretrain",
        doc="Third stage of `tiny`: all losses with dropout, on what the stem has read (experiments/tiny/views.py).",
        options={
            **_TINY_PHOTOS,
            "tune": {"freeze": _TINY_FROZEN, "rates": _TINY_RATES},
            "views": "runs/tiny/views.npy",
            "start": {"init": "runs/tiny/stage2/final", "dropout": 0.1},
            "texts_per_image": 3,
            "imagined_per_image": 0.25,
        },
        train={
            "epochs": 7,
            "batch_size": 64,
            "lr": 4e-4,
            "min_lr": 1e-5,
            "warmup_lr": 1e-5,
            "warmup_steps": 60,
            "weight_decay": 0.05,
            "schedule": "cosine_step",
            "max_grad_norm": 2.0,
            "dtype": "fp32",
            "ema": 0.995,
        },
    ),
    "tiny-4": Preset(
        task="pretrain",
        doc="Fourth stage of `tiny`: the encoder's own weights and the heads, with the sentence encoder as teacher.",
        options={
            **_TINY_PHOTOS,
            "tune": {"freeze": ("vision.", "decoder.")},
            "views": "runs/tiny/views.npy",
            "start": {"init": "runs/tiny/average", "dropout": 0.1},
            "texts_per_image": 1,
            "lm": False,
            "imagined": None,
            "teacher": "runs/tiny/teacher",
            "teacher_weight": 4.0,
        },
        train={
            "epochs": 6,
            "batch_size": 128,
            "lr": 3e-4,
            "min_lr": 1e-5,
            "warmup_lr": 1e-5,
            "warmup_steps": 20,
            "weight_decay": 0.05,
            "schedule": "cosine_step",
            "max_grad_norm": 2.0,
            "dtype": "fp32",
            "ema": 0.98,
        },
    ),
    "tiny-5": Preset(
        task="caption",
        doc="Fifth stage of `tiny`: CIDEr as reward of sampled captions, for the decoder's own weights alone.",
        options={
            "start": {"init": "runs/tiny/average", "dropout": 0.0},
            "max_length": 20,
            "keep_parts": True,
            "views": "runs/tiny/views.npy",
            "reward": {"samples": 5, "top_k": 20, "weight": 20.0},
            "tune": {"freeze": _TINY_ALL_BUT_DECODER},
        },
        train={
            "steps": 600,
            "batch_size": 32,
            "lr": 1.5e-4,
            "min_lr": 1e-5,
            "warmup_lr": 1e-6,
            "warmup_steps": 20,
            "weight_decay": 0.0,
            "schedule": "cosine_step",
            "max_grad_norm": 2.0,
            "dtype": "fp32",
            "ema": 0.98,
        },
    ),
    "tiny-vqa": Preset(
        task="vqa",
        doc="The bundled `tiny-vqa`: made-up questions about the same photos (experiments/vqa), eight a photo at once.",
        options={
            "data": "runs/vqa/train.jsonl",
            "start": {"init": "runs/vqa/init", "dropout": 0.1},
            "max_length": 24,
            "tune": {"freeze": ("vision.stem",), "no_decay": True, "rates": (("vision.*", 0.3),)},
            "questions_per_image": 8,
            "views": "runs/tiny/views.npy",
        },
        train={
            "steps": 1800,
            "batch_size": 24,
            "lr": 4e-4,
            "min_lr": 1e-5,
            "warmup_lr": 1e-5,
            "warmup_steps": 60,
            "weight_decay": 0.05,
            "schedule": "cosine_step",
            "max_grad_norm": 2.0,
            "dtype": "bf16",
            "ema": 0.995,
        },
    ),
    "tiny-nlvr": Preset(
        task="nlvr",
        doc="Statements about pairs of the same photos (experiments/nlvr), not bundled: the second run; "
        "the first is of 260 steps with lr 1e-4 from runs/nlvr/init.",
        options={
            "data": "runs/nlvr/train-simple.jsonl",
            "start": {"init": "runs/nlvr/first/final", "dropout": 0.1},
            "max_length": 40,
            "views": "runs/tiny/views.npy",
            "tune": {"freeze": ("vision.",), "no_decay": True, "rates": (("*.cross_merge.*", 2.0),)},
        },
        train={
            "steps": 800,
            "batch_size": 48,
            "lr": 2e-4,
            "min_lr": 5e-6,
            "warmup_lr": 1e-6,
            "warmup_steps": 40,
            "weight_decay": 0.05,
            "schedule": "cosine_step",
            "max_grad_norm": 2.0,
            "dtype": "bf16",
            "ema": 0.98,
        },
    ),
}
