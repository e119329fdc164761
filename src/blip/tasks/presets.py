"""Training presets: every YAML file of the original, and a ViT-L variant of each. Does not import torch.

`blip train --list` shows them; `--config preset:NAME` takes one, `--data`, `--val`, `-o` and `--set` complete it.
Batch sizes count all devices (the original: 8 GPUs times the number in its file). Expected scores are the paper's. If
a released file differs from the paper's text, the preset follows the file and `doc` names the other value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Values of a task and of the training loop, with a description, published scores and costs.

    train: empty if nothing is trained; `doc` then names the command that evaluates.
    """

    task: str
    doc: str
    options: Values = field(default_factory=dict)
    train: Values = field(default_factory=dict)


_PRETRAIN_LOOP: Values = {
    "epochs": 20,
    "batch_size": 600,
    "lr": 3e-4,
    "min_lr": 1e-6,
    "warmup_lr": 1e-6,
    "warmup_steps": 3000,
    "lr_decay_rate": 0.9,
    "weight_decay": 0.05,
    "schedule": "pretrain",
}
_PRETRAIN: Values = {"queue_size": 57600, "alpha": 0.4, "data": ["coco", "vg"]}


def _fine_tune(epochs: int, lr: float, batch_size: int = 256, grad_checkpoint: int = 0) -> Values:
    """The original's fine-tuning loop: AdamW, half a cosine by epochs, no warm-up."""
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "min_lr": 0.0,
        "weight_decay": 0.05,
        "schedule": "cosine_epoch",
        "grad_checkpoint": grad_checkpoint,
    }


def _start(init: str, image_size: int) -> Values:
    return {"start": {"init": init, "image_size": image_size}}


def _of(name: str) -> Values:
    return {"data": [name], "val": [name]}


_RETRIEVAL: Values = {"queue_size": 57600, "alpha": 0.4}
_COCO_RETRIEVAL: Values = {
    **_of("coco"),
    **_RETRIEVAL,
    "negatives": {"source": "online", "floor": 0.0, "all_ranks": True},
}
_FLICKR_RETRIEVAL: Values = {
    **_of("flickr30k"),
    **_RETRIEVAL,
    "negatives": {"source": "online", "floor": 0.0, "all_ranks": False},
}
_CAPTION: Values = {**_of("coco"), "prompt": "a picture of "}
_VQA: Values = {"data": ["vqa@train+val+vg"]}

PRESETS: dict[str, Preset] = {
    "pretrain": Preset(
        task="pretrain",
        doc="pretrain.yaml: ViT-B, 224 px, 20 epochs, 8 x 75, decay 0.9. Paper: batch 2880, decay 0.85.",
        options={"start": {"size": "base", "vision": "deit-base", "text": "bert-base-uncased"}, **_PRETRAIN},
        train=_PRETRAIN_LOOP,
    ),
    "pretrain_large": Preset(
        task="pretrain",
        doc="ViT-L as the paper: lr 2e-4 (batch 2400 and decay 0.85 there).",
        options={"start": {"size": "large", "vision": "augreg-large", "text": "bert-base-uncased"}, **_PRETRAIN},
        train={**_PRETRAIN_LOOP, "lr": 2e-4},
    ),
    "caption_coco": Preset(
        task="caption",
        doc="caption_coco.yaml: ViT-B, 384 px, 5 epochs, 8 x 32. Test: BLEU-4 39.7, CIDEr 133.3.",
        options={**_start("pretrain-base-capfilt", 384), **_CAPTION},
        train=_fine_tune(5, 1e-5),
    ),
    "caption_coco_large": Preset(
        task="caption",
        doc="ViT-L: lr 2e-6, 8 x 16 (paper: 256), 5 blocks checkpointed: BLEU-4 40.4, CIDEr 136.7.",
        options={**_start("pretrain-large", 384), **_CAPTION},
        train=_fine_tune(5, 2e-6, 128, grad_checkpoint=5),
    ),
    "retrieval_coco": Preset(
        task="retrieval",
        doc="retrieval_coco.yaml: ViT-B, 384 px, 6 epochs, 8 x 32, negatives of all ranks: TR@1 81.9, IR@1 64.3.",
        options={**_start("pretrain-base", 384), **_COCO_RETRIEVAL, "evaluation": {"k": 256}},
        train=_fine_tune(6, 1e-5, grad_checkpoint=4),
    ),
    "retrieval_coco_large": Preset(
        task="retrieval",
        doc="ViT-L: lr 5e-6, 8 x 16 (paper: 256), 12 blocks checkpointed: TR@1 82.4, IR@1 65.1.",
        options={**_start("pretrain-large", 384), **_COCO_RETRIEVAL, "evaluation": {"k": 256}},
        train=_fine_tune(6, 5e-6, 128, grad_checkpoint=12),
    ),
    "retrieval_flickr": Preset(
        task="retrieval",
        doc="retrieval_flickr.yaml: ViT-B, 384 px, 6 epochs, 8 x 32, negatives of one rank: TR@1 97.3, IR@1 87.3.",
        options={**_start("pretrain-base", 384), **_FLICKR_RETRIEVAL, "evaluation": {"k": 128}},
        train=_fine_tune(6, 1e-5, grad_checkpoint=4),
    ),
    "retrieval_flickr_large": Preset(
        task="retrieval",
        doc="ViT-L: lr 5e-6, 8 x 16 (paper: 256), 10 blocks checkpointed: TR@1 97.4, IR@1 87.6.",
        options={**_start("pretrain-large", 384), **_FLICKR_RETRIEVAL, "evaluation": {"k": 128}},
        train=_fine_tune(6, 5e-6, 128, grad_checkpoint=10),
    ),
    "vqa": Preset(
        task="vqa",
        doc="vqa.yaml: ViT-B, 480 px, 10 epochs, 8 x 16, VQA v2 train and val with Visual Genome. Test-dev 78.25.",
        options={**_start("pretrain-base-capfilt", 480), **_VQA},
        train=_fine_tune(10, 2e-5, 128),
    ),
    "vqa_large": Preset(
        task="vqa",
        doc="ViT-L, which the original lacks; the answer decoder's keys and values start random. No known score.",
        options={**_start("pretrain-large", 480), **_VQA},
        train=_fine_tune(10, 1e-5, 128, grad_checkpoint=12),
    ),
    "nlvr": Preset(
        task="nlvr",
        doc="nlvr.yaml: ViT-B, 384 px, 15 epochs, 8 x 16. dev 82.48, test-P 83.08 (with randomly swapped pairs).",
        options={**_start("pretrain-base", 384), **_of("nlvr2")},
        train=_fine_tune(15, 3e-5, 128),
    ),
    "nlvr_large": Preset(
        task="nlvr",
        doc="ViT-L by analogy: the original has none. No known score.",
        options={**_start("pretrain-large", 384), **_of("nlvr2")},
        train=_fine_tune(15, 1e-5, 128, grad_checkpoint=12),
    ),
    "nocaps": Preset(
        task="nocaps",
        doc="nocaps.yaml: blip eval nocaps --data nocaps --split val -m caption-base. CIDEr 109.6, SPICE 14.7.",
    ),
    "nocaps_large": Preset(
        task="nocaps",
        doc="ViT-L: blip eval nocaps --data nocaps --split val -m caption-large. CIDEr 113.2, SPICE 14.8.",
    ),
    "retrieval_msrvtt": Preset(
        task="video-retrieval",
        doc="retrieval_msrvtt.yaml: blip eval video-retrieval --data msrvtt -m retrieval-coco-base. "
        "Text to video R@1/5/10 43.3/65.6/74.7, median rank 2.",
    ),
    "retrieval_msrvtt_large": Preset(
        task="video-retrieval",
        doc="ViT-L: blip eval video-retrieval --data msrvtt -m retrieval-coco-large. Video to text R@1 39.7.",
    ),
}
