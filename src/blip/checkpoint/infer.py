"""Infer the config of a weights file: layout, family and sizes from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

from torch import Tensor

from blip.checkpoint import tables
from blip.checkpoint.hf import apply_hf_config, hf_heads
from blip.checkpoint.state_dict import detect_layout, normalize_hf
from blip.checkpoint.tables import Layout
from blip_lite.config import BlipConfig, Family, TextConfig, VisionConfig
from blip_lite.errors import CheckpointMismatch

HEAD_WIDTH = 64  # of all published models; shapes do not show it


class ShapeLookup:
    """Shapes of a state dict in any layout, by the names of the blip layout."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.layout = detect_layout(state)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in _named(state, self.layout).items()}

    def has(self, name: str) -> bool:
        return name in self.shapes

    def get(self, name: str, dims: int) -> tuple[int, ...]:
        """Shape of a tensor of `dims` dimensions, none of them 0. Raises CheckpointMismatch."""
        if name not in self.shapes:
            raise CheckpointMismatch(f"weights in the {self.layout} layout: no tensor for {name}")
        shape = self.shapes[name]
        if len(shape) != dims or 0 in shape:
            raise CheckpointMismatch(f"{name} is {list(shape)}; must have {dims} dimensions, none of size 0")
        return shape

    def count(self, name: str) -> int:
        """Number of layers, counted by a name with `{i}`."""
        i = 0
        while name.replace("{i}", str(i)) in self.shapes:
            i += 1
        return i


def _named(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Tensors by the names of the blip layout, without config; unknown ones are left out, fused ones stay fused."""
    if layout == "blip":
        return dict(state)
    templates, named = tables.templates(layout), {}
    for name, tensor in (normalize_hf(state) if layout == "hf" else state).items():
        layer = None if name in templates else re.search(r"\.(\d+)\.", name)
        template = name.replace(layer[0], ".{i}.", 1) if layer else name
        if template in templates:
            named[templates[template].replace("{i}", layer[1] if layer else "")] = tensor
    return named


def infer_config(
    state: Mapping[str, Tensor],
    hf_config: Mapping[str, Any] | None = None,
    *,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> BlipConfig:
    """Config of weights in any layout.

    Widths, depths, patch and image size follow from shapes, the family from the parts that exist, the number of heads
    from the width (64 each) unless given. hf_config: Transformers' config.json, which then decides heads, eps and ids.
    """
    shapes = ShapeLookup(state)
    if shapes.layout == "blip" and shapes.has("vision.stem.conv.weight"):
        raise CheckpointMismatch("weights with a stem cannot be read without their config.json in the same folder")
    if hf_config is not None:
        vision_heads, text_heads = hf_heads(hf_config)
    family = _family(shapes)
    text = _text(shapes, "encoder" if family in ("features", "retrieval", "nlvr") else "decoder", text_heads)
    config = BlipConfig(family=family, vision=_vision(shapes, family, vision_heads), text=text)
    if family in ("retrieval", "pretrain"):
        config = replace(config, proj_width=shapes.get("vision_proj.weight", 2)[0])
    return config if hf_config is None else apply_hf_config(config, hf_config)


def _family(shapes: ShapeLookup) -> Family:
    encoder, decoder = (shapes.has(f"{part}.blocks.0.attn.q.weight") for part in ("encoder", "decoder"))
    matching = shapes.has("itm_head.weight")
    if shapes.has("nlvr_head.fc1.weight"):
        return "nlvr"
    if encoder and decoder:
        return "pretrain" if matching else "vqa"
    if decoder:
        return "caption"
    if encoder:
        return "retrieval" if matching else "features"
    raise CheckpointMismatch("these weights have neither a text encoder nor a text decoder")


def _vision(shapes: ShapeLookup, family: Family, num_heads: int | None) -> VisionConfig:
    width, _, patch_size, _ = shapes.get("vision.patch_embed.weight", 4)
    num_layers = shapes.count("vision.blocks.{i}.norm1.weight")
    patches = shapes.get("vision.pos_embed", 3)[1] - 1
    if patches < 1 or isqrt(patches) ** 2 != patches:
        raise CheckpointMismatch(f"vision.pos_embed: {patches} image tokens; must be a square number")
    return VisionConfig(
        image_size=isqrt(patches) * patch_size,
        patch_size=patch_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads or _heads(width, "vision"),
        mlp_width=shapes.get("vision.blocks.0.mlp.fc1.weight", 2)[0],
        drop_path=0.1 if family in ("vqa", "nlvr") or num_layers >= 24 else 0.0,
    )


def _text(shapes: ShapeLookup, part: str, num_heads: int | None) -> TextConfig:
    vocab_size, width = shapes.get(f"{part}.embed.word.weight", 2)
    num_layers = shapes.count(f"{part}.blocks.{{i}}.attn.q.weight")
    merged = [i for i in range(num_layers) if shapes.has(f"encoder.blocks.{i}.cross_merge.weight")]
    config = TextConfig(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads or _heads(width, "text"),
        mlp_width=shapes.get(f"{part}.blocks.0.mlp.fc1.weight", 2)[0],
        max_length=shapes.get(f"{part}.embed.position.weight", 2)[0],
        dec_id=vocab_size - 2,  # the two special words come last
        enc_id=vocab_size - 1,
    )
    return replace(config, nlvr_merge_from=merged[0]) if merged else config


def _heads(width: int, part: str) -> int:
    if width % HEAD_WIDTH:
        raise CheckpointMismatch(
            f"{part} width {width}: not a multiple of {HEAD_WIDTH}; the number of heads must be given"
        )
    return width // HEAD_WIDTH
