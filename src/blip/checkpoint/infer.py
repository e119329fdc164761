"""What a bare weights file is: layout, family and sizes from names and shapes, the rest from a config beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from blip.checkpoint import tables
from blip.checkpoint.tables import Layout
from blip_lite.config import BlipConfig, Family, TextConfig, VisionConfig
from blip_lite.errors import CheckpointMismatch

MARKS: dict[Layout, str] = {"blip": "vision.", "original": "visual_encoder.", "hf": "vision_model."}
HEAD_WIDTH = 64  # of every published model; shapes do not show it
# Defaults of Transformers' BlipTextConfig and BlipVisionConfig: published files state only what differs.
HF_TEXT_HEADS, HF_TEXT_EPS, HF_VISION_HEADS, HF_VISION_EPS = 8, 1e-12, 12, 1e-5


def detect_layout(keys: Iterable[str]) -> Layout:
    """Whose names these are; CheckpointMismatch when nobody's."""
    names = list(keys)
    for layout, mark in MARKS.items():
        if any(name.startswith(mark) for name in names):
            return layout
    some = ", ".join(names[:3]) or "no keys"
    raise CheckpointMismatch(f"not BLIP weights ({some}): no key starts with {', '.join(MARKS.values())}")


class ShapeLookup:
    """Shapes of a state dict in any layout, looked up by the names of this package."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.layout = detect_layout(state)
        self.state = state
        self.templates = _templates(self.layout)

    def find(self, ours: str) -> tuple[int, ...] | None:
        for name in self._theirs(ours):
            if name in self.state:
                return tuple(self.state[name].shape)
        return None

    def get(self, ours: str) -> tuple[int, ...]:
        shape = self.find(ours)
        if shape is None:
            raise CheckpointMismatch(f"weights in the {self.layout} layout: no tensor for {ours}")
        return shape

    def count(self, ours: str) -> int:
        """How many layers, counted by a name with `{i}`."""
        i = 0
        while self.find(ours.replace("{i}", str(i))) is not None:
            i += 1
        return i

    def _theirs(self, ours: str) -> list[str]:
        if self.layout == "blip":
            duplicate = re.sub(r"^encoder\.", "decoder.", ours)  # pre-training stores a shared tensor once
            return [ours] if duplicate == ours else [ours, duplicate]
        layer = re.search(r"\.(\d+)\.", ours)
        template = re.sub(r"\.\d+\.", ".{i}.", ours, count=1)
        return [name.replace("{i}", layer[1] if layer else "") for name in self.templates[template]]


def infer_config(
    state: Mapping[str, Tensor],
    hf_config: Mapping[str, Any] | None = None,
    *,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> BlipConfig:
    """The config of weights in any layout.

    Widths, depths, patch and image size come from shapes, the family from the parts that are there, heads from the
    width (64 each) unless given. hf_config: the config.json of Transformers, which then decides heads, eps and ids.
    """
    shapes = ShapeLookup(state)
    if shapes.layout == "blip" and shapes.find("vision.stem.conv.weight"):
        raise CheckpointMismatch("weights with a stem cannot be read without the config.json beside them")
    if hf_config is not None:
        vision_heads, text_heads = _hf_heads(hf_config)
    family = _family(shapes)
    text = _text(shapes, "encoder" if family in ("features", "retrieval", "nlvr") else "decoder", text_heads)
    config = BlipConfig(family=family, vision=_vision(shapes, family, vision_heads), text=text)
    if family in ("retrieval", "pretrain"):
        config = replace(config, proj_width=shapes.get("vision_proj.weight")[0])
    return config if hf_config is None else _honour(config, hf_config)


def _family(shapes: ShapeLookup) -> Family:
    encoder = shapes.find("encoder.blocks.0.attn.q.weight") is not None
    decoder = shapes.find("decoder.blocks.0.attn.q.weight") is not None
    matching = shapes.find("itm_head.weight") is not None
    if shapes.layout == "blip":  # `find` looks into the decoder for what may be shared
        encoder = "encoder.blocks.0.attn.q.weight" in shapes.state
    if shapes.find("nlvr_head.fc1.weight"):
        return "nlvr"
    if encoder and decoder:
        return "pretrain" if matching else "vqa"
    if decoder:
        return "caption"
    if encoder:
        return "retrieval" if matching else "features"
    raise CheckpointMismatch("these weights have neither a text encoder nor a text decoder")


def _vision(shapes: ShapeLookup, family: Family, num_heads: int | None) -> VisionConfig:
    width, _, patch_size, _ = shapes.get("vision.patch_embed.weight")
    num_layers = shapes.count("vision.blocks.{i}.norm1.weight")
    patches = shapes.get("vision.pos_embed")[1] - 1
    if int(patches**0.5) ** 2 != patches:
        raise CheckpointMismatch(f"vision.pos_embed: {patches} image tokens; must be a square number")
    return VisionConfig(
        image_size=int(patches**0.5) * patch_size,
        patch_size=patch_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads or _heads(width, "vision"),
        mlp_width=shapes.get("vision.blocks.0.mlp.fc1.weight")[0],
        drop_path=0.1 if family in ("vqa", "nlvr") or num_layers >= 24 else 0.0,
    )


def _text(shapes: ShapeLookup, part: str, num_heads: int | None) -> TextConfig:
    vocab_size, width = shapes.get(f"{part}.embed.word.weight")
    num_layers = shapes.count(f"{part}.blocks.{{i}}.attn.q.weight")
    merged = [i for i in range(num_layers) if shapes.find(f"encoder.blocks.{i}.cross_merge.weight")]
    config = TextConfig(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads or _heads(width, "text"),
        mlp_width=shapes.get(f"{part}.blocks.0.mlp.fc1.weight")[0],
        max_length=shapes.get(f"{part}.embed.position.weight")[0],
        dec_id=vocab_size - 2,  # the two special words come last
        enc_id=vocab_size - 1,
    )
    return replace(config, nlvr_merge_from=merged[0]) if merged else config


def _heads(width: int, part: str) -> int:
    if width % HEAD_WIDTH:
        raise CheckpointMismatch(
            f"{part} width {width}: no multiple of {HEAD_WIDTH}; the number of heads must be given"
        )
    return width // HEAD_WIDTH


def _hf_heads(hf_config: Mapping[str, Any]) -> tuple[int, int]:
    """Of the image tower and of the text side."""
    text, vision = hf_config.get("text_config") or {}, hf_config.get("vision_config") or {}
    return vision.get("num_attention_heads", HF_VISION_HEADS), text.get("num_attention_heads", HF_TEXT_HEADS)


def _honour(config: BlipConfig, hf_config: Mapping[str, Any]) -> BlipConfig:
    """What only Transformers' config.json can tell, its defaults included; the heads are in already."""
    text, vision = hf_config.get("text_config") or {}, hf_config.get("vision_config") or {}
    if config.text.num_heads == HF_TEXT_HEADS and config.text.width == 768:
        # original: 12 heads; Transformers' default of 8 gave wrong scores until its hub files were corrected
        raise CheckpointMismatch(
            "config.json: text_config.num_attention_heads is 8 (Transformers' default); BLIP's text side has 12: set it"
        )
    image_size = vision.get("image_size", config.vision.image_size)
    if image_size != config.vision.image_size:
        raise CheckpointMismatch(
            f"config.json: vision_config.image_size {image_size}; the weights are for {config.vision.image_size}"
        )
    dec_id = text.get("bos_token_id", config.text.dec_id)
    return replace(
        config,
        vision=replace(config.vision, norm_eps=vision.get("layer_norm_eps", HF_VISION_EPS)),
        text=replace(
            config.text,
            norm_eps=text.get("layer_norm_eps", HF_TEXT_EPS),
            pad_id=text.get("pad_token_id", config.text.pad_id),
            sep_id=text.get("sep_token_id", config.text.sep_id),
            dec_id=dec_id,
            enc_id=dec_id + 1,
        ),
    )


def hf_config(config: BlipConfig) -> dict[str, Any]:
    """The config.json that makes Transformers compute what we compute."""
    classes = {
        "caption": "BlipForConditionalGeneration",
        "vqa": "BlipForQuestionAnswering",
        "retrieval": "BlipForImageTextRetrieval",
    }
    vision, text = config.vision, config.text
    return {
        "architectures": [classes[config.family]],
        "model_type": "blip",
        "image_text_hidden_size": config.proj_width,
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": vision.width,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "intermediate_size": vision.mlp_width,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.norm_eps,
        },
        "text_config": {
            "model_type": "blip_text_model",
            "hidden_size": text.width,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "intermediate_size": text.mlp_width,
            "encoder_hidden_size": vision.width,
            "max_position_embeddings": text.max_length,
            "vocab_size": text.vocab_size,
            "layer_norm_eps": text.norm_eps,
            "pad_token_id": text.pad_id,
            "bos_token_id": text.dec_id,
            "sep_token_id": text.sep_id,
            "eos_token_id": text.sep_id,
            "label_smoothing": text.label_smoothing,  # their default is 0, and with it another loss
        },
    }


def _templates(layout: Layout) -> dict[str, list[str]]:
    """Our name with `{i}` for the first number -> their possible names, for every family at once."""
    if layout == "blip":
        return {}
    everything = [
        *tables.VISION[layout],
        *tables.LM_HEAD,
        *tables.MATCHING,
        *tables.NLVR_HEAD,
        *(rule.under(*tables.ENCODER) for rule in (*tables.REST, *tables.SELF, *tables.CROSS, tables.MERGE)),
        *(rule.under(*tables.DECODER) for rule in (*tables.REST, *tables.SELF, *tables.CROSS)),
    ]
    found: dict[str, list[str]] = {}
    for rule in everything:
        for kind in ("weight", "bias") if rule.ours.endswith("*") else ("",):
            ours, theirs = rule.ours.replace("*", kind), rule.theirs.replace("*", kind)
            others = [alias for alias, name in tables.ALIASES if name == theirs]
            if layout == "hf" and theirs.startswith("text_encoder."):
                others.append("text_model." + theirs.removeprefix("text_encoder."))
            found[ours] = [theirs, *others]
    return found
