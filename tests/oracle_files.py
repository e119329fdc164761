"""Numbers recorded from the original code at small size, and our models with the same weights.

The files under tests/oracle are copies of those numbers; their README describes how they were made and their precision.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from blip.model.blip import BlipModel
from blip_lite.config import BlipConfig, Family, TextConfig, VisionConfig

FOLDER = Path(__file__).parent / "oracle"


@cache
def _tensors(name: str) -> dict[str, Tensor]:
    with torch.inference_mode(False):  # cached for tests that compute gradients, whichever test loads it first
        state = load_file(FOLDER / f"{name}.safetensors")
        return {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}


def tensors(name: str) -> dict[str, Tensor]:
    """Tensors of one oracle file; float16 is cast up, which is exact."""
    return dict(_tensors(name))


@cache
def values(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def weights(name: str) -> dict[str, Tensor]:
    return tensors(f"weights/{name}")


def oracle_config(family: Family, **changes: Any) -> BlipConfig:
    """The size of the oracle's models; the two widths differ on purpose."""
    text = TextConfig(
        vocab_size=4002,
        width=32,
        num_layers=8 if family == "nlvr" else 4,
        num_heads=4,
        mlp_width=64,
        max_length=64,
        dropout=0.0,
        dec_id=4000,
        enc_id=4001,
    )
    vision = VisionConfig(image_size=64, width=48, num_layers=3, num_heads=3, mlp_width=192)
    return replace(BlipConfig(family=family, vision=vision, text=text, proj_width=24), **changes)


def oracle_model(family: Family) -> BlipModel:
    """Our model with the oracle's weights of that family, in eval mode."""
    from blip.checkpoint import adapt, state_dict

    config = oracle_config(family)
    source: Family = "retrieval" if family == "features" else family
    stored = weights("decoder" if family == "caption" else source)
    state, _ = state_dict.to_blip(stored, oracle_config(source), "original")
    state = adapt.for_family(state, oracle_config(source), config).state
    model = BlipModel(config)
    model.load_state_dict(state, strict=True)
    return model.eval()
