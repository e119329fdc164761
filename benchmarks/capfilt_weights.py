"""Random ViT-B weights of a captioner and a filter, in the layout of Transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from blip.checkpoint.files import write_hf_folder
from blip.model.blip import BlipModel
from blip_lite.config import Family, published_config, with_image_size


def write_random(folder: Path, family: Family, image_size: int = 384, seed: int = 0) -> str:
    """Write a model with seeded random weights; the vision weights are those of any other family with this seed."""
    torch.manual_seed(seed)
    model = BlipModel(with_image_size(published_config(family), image_size))
    for name, text in model.named_children():
        if name in ("encoder", "decoder"):
            text.embed.word.weight.data.mul_(5)  # spreads the scores of tokens, which would differ by rounding only
    folder.mkdir()
    write_hf_folder(folder, model.state_dict(), model.config)
    return str(folder)
