"""Names of weights in the layouts blip (this package), original (salesforce/BLIP) and hf (Transformers), as tables.

In a rule `{i}` stands for the layer, `*` for weight and bias, and `{part}` in the blip layout for the parts of a
tensor that the other layouts store fused. `expand` lists all names for a config. Tensors that are not weights are
listed too: aliases (stored twice), derived tensors, training state.
Source: state dicts of salesforce/BLIP models/*.py and of transformers.models.blip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from blip_lite.config import BlipConfig
from blip_lite.errors import ConfigError

Layout = Literal["blip", "original", "hf"]
IMAGE_TOWERS: dict[Layout, str] = {"blip": "vision.", "original": "visual_encoder.", "hf": "vision_model."}


@dataclass(frozen=True, slots=True)
class Rule:
    """Name in the blip layout, name in the other. `first_layer`: layers below have no such tensor."""

    blip: str
    other: str
    split: tuple[str, ...] = ()
    first_layer: int = 0

    def under(self, blip: str, other: str) -> Rule:
        """The same rule for names below these prefixes."""
        return replace(self, blip=f"{blip}.{self.blip}", other=f"{other}.{self.other}")

    def tensors(self) -> list[tuple[str, str]]:
        """Both names of each tensor: `*` expanded, `{i}` and `{part}` kept."""
        kinds = ("weight", "bias") if self.blip.endswith("*") else ("",)
        return [(self.blip.replace("*", kind), self.other.replace("*", kind)) for kind in kinds]


QKV = ("q", "k", "v")

VIT_TIMM = (
    Rule("cls_token", "cls_token"),
    Rule("pos_embed", "pos_embed"),
    Rule("patch_embed.*", "patch_embed.proj.*"),
    Rule("blocks.{i}.norm1.*", "blocks.{i}.norm1.*"),
    Rule("blocks.{i}.attn.{part}.*", "blocks.{i}.attn.qkv.*", split=QKV),
    Rule("blocks.{i}.attn.out.*", "blocks.{i}.attn.proj.*"),
    Rule("blocks.{i}.norm2.*", "blocks.{i}.norm2.*"),
    Rule("blocks.{i}.mlp.fc1.*", "blocks.{i}.mlp.fc1.*"),
    Rule("blocks.{i}.mlp.fc2.*", "blocks.{i}.mlp.fc2.*"),
    Rule("norm.*", "norm.*"),
)
VIT_HF = (
    Rule("cls_token", "embeddings.class_embedding"),
    Rule("pos_embed", "embeddings.position_embedding"),
    Rule("patch_embed.*", "embeddings.patch_embedding.*"),
    Rule("blocks.{i}.norm1.*", "encoder.layers.{i}.layer_norm1.*"),
    Rule("blocks.{i}.attn.{part}.*", "encoder.layers.{i}.self_attn.qkv.*", split=QKV),
    Rule("blocks.{i}.attn.out.*", "encoder.layers.{i}.self_attn.projection.*"),
    Rule("blocks.{i}.norm2.*", "encoder.layers.{i}.layer_norm2.*"),
    Rule("blocks.{i}.mlp.fc1.*", "encoder.layers.{i}.mlp.fc1.*"),
    Rule("blocks.{i}.mlp.fc2.*", "encoder.layers.{i}.mlp.fc2.*"),
    Rule("norm.*", "post_layernorm.*"),
)
VISION: dict[Layout, tuple[Rule, ...]] = {
    "original": tuple(rule.under("vision", "visual_encoder") for rule in VIT_TIMM),
    "hf": tuple(rule.under("vision", "vision_model") for rule in VIT_HF),
}

# The text side has the same names in the original and the hf layout.
SELF = (
    Rule("blocks.{i}.attn.q.*", "encoder.layer.{i}.attention.self.query.*"),
    Rule("blocks.{i}.attn.k.*", "encoder.layer.{i}.attention.self.key.*"),
    Rule("blocks.{i}.attn.v.*", "encoder.layer.{i}.attention.self.value.*"),
    Rule("blocks.{i}.attn.out.*", "encoder.layer.{i}.attention.output.dense.*"),
    Rule("blocks.{i}.attn_norm.*", "encoder.layer.{i}.attention.output.LayerNorm.*"),
)
REST = (  # shared by encoder and decoder in pre-training, as CROSS
    Rule("embed.word.weight", "embeddings.word_embeddings.weight"),
    Rule("embed.position.weight", "embeddings.position_embeddings.weight"),
    Rule("embed.norm.*", "embeddings.LayerNorm.*"),
    Rule("blocks.{i}.mlp.fc1.*", "encoder.layer.{i}.intermediate.dense.*"),
    Rule("blocks.{i}.mlp.fc2.*", "encoder.layer.{i}.output.dense.*"),
    Rule("blocks.{i}.mlp_norm.*", "encoder.layer.{i}.output.LayerNorm.*"),
)
CROSS = tuple(  # named as SELF
    replace(
        rule, blip=rule.blip.replace(".attn", ".cross"), other=rule.other.replace(".attention.", ".crossattention.")
    )
    for rule in SELF
)
DUAL_CROSS = (  # NLVR2: one cross-attention per image
    Rule("blocks.{i}.cross.0.q.*", "encoder.layer.{i}.crossattention.self0.query.*"),
    Rule("blocks.{i}.cross.0.k.*", "encoder.layer.{i}.crossattention.self0.key.*"),
    Rule("blocks.{i}.cross.0.v.*", "encoder.layer.{i}.crossattention.self0.value.*"),
    Rule("blocks.{i}.cross.0.out.*", "encoder.layer.{i}.crossattention.output.dense0.*"),
    Rule("blocks.{i}.cross.1.q.*", "encoder.layer.{i}.crossattention.self1.query.*"),
    Rule("blocks.{i}.cross.1.k.*", "encoder.layer.{i}.crossattention.self1.key.*"),
    Rule("blocks.{i}.cross.1.v.*", "encoder.layer.{i}.crossattention.self1.value.*"),
    Rule("blocks.{i}.cross.1.out.*", "encoder.layer.{i}.crossattention.output.dense1.*"),
    Rule("blocks.{i}.cross_norm.*", "encoder.layer.{i}.crossattention.output.LayerNorm.*"),
)
MERGE = Rule("blocks.{i}.cross_merge.*", "encoder.layer.{i}.crossattention.output.merge_layer.*")
LM_HEAD = (
    Rule("decoder.lm_head.fc.*", "text_decoder.cls.predictions.transform.dense.*"),
    Rule("decoder.lm_head.norm.*", "text_decoder.cls.predictions.transform.LayerNorm.*"),
    Rule("decoder.lm_head.bias", "text_decoder.cls.predictions.bias"),
)
MATCHING = (
    Rule("vision_proj.*", "vision_proj.*"),
    Rule("text_proj.*", "text_proj.*"),
    Rule("itm_head.*", "itm_head.*"),
)
TEMPERATURE = Rule("temperature", "temp")  # only in the original, except its stand-alone matcher
NLVR_HEAD = (
    Rule("nlvr_head.fc1.*", "cls_head.0.*"),
    Rule("nlvr_head.fc2.*", "cls_head.2.*"),
)

ENCODER, DECODER = ("encoder", "text_encoder"), ("decoder", "text_decoder.bert")

# Names of the same tensor in the original and the hf layout: a file may lack either, two must be equal.
ALIASES = (
    ("text_decoder.cls.predictions.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight"),
    ("text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.bias"),
)
DERIVED = (  # the buffer 0, 1, 2, ... of older files
    "text_encoder.embeddings.position_ids",
    "text_encoder_m.embeddings.position_ids",
    "text_decoder.bert.embeddings.position_ids",
)
# Parts of the deprecated Transformers class `BlipModel` that BLIP does not have.
FOREIGN = ("logit_scale", "visual_projection.", "text_projection.", "text_model.pooler.")

MOMENTUM = {  # part -> the original's prefixes of its weights and of their momentum copies
    "vision": ("visual_encoder", "visual_encoder_m"),
    "encoder": ("text_encoder", "text_encoder_m"),
    "vision_proj": ("vision_proj", "vision_proj_m"),
    "text_proj": ("text_proj", "text_proj_m"),
}
QUEUES = {  # the original's names -> names in the training state
    "image_queue": "image_queue",
    "text_queue": "text_queue",
    "idx_queue": "idx_queue",
    "queue_ptr": "queue_ptr",  # pre-training
    "ptr_queue": "queue_ptr",  # retrieval
}


def can_export_to(layout: Layout, config: BlipConfig) -> bool:
    """Whether weights of this config can be written in a layout."""
    return not _export_obstacle(layout, config)


def require_export(layout: Layout, config: BlipConfig) -> None:
    """Raise ConfigError, with the reason, if weights of this config cannot be written in a layout."""
    obstacle = _export_obstacle(layout, config)
    if obstacle:
        raise ConfigError(obstacle)


def _export_obstacle(layout: Layout, config: BlipConfig) -> str:
    vision, text = config.vision, config.text
    reader = {"blip": "", "hf": "Transformers", "original": "the original's code"}[layout]
    if layout == "blip":
        return ""
    if vision.stem != "none":
        return f"{reader} cannot hold the convolutional stem '{vision.stem}' of tiny and its runs; use safetensors"
    if layout == "hf" and config.family not in ("caption", "vqa", "retrieval"):
        return f"{reader} has no class for '{config.family}' models; only for caption, vqa, retrieval"
    if layout == "hf" and config.family == "vqa" and vision.width != text.width:
        # its decoder would attend to sequences of vision.width, BLIP's to question states of text.width
        return (
            f"{reader} cannot hold a vqa model with vision.width {vision.width} and text.width {text.width}; "
            "they must be equal"
        )
    return ""


def rules(config: BlipConfig, layout: Layout) -> Iterator[Rule]:
    """Rules of all weights of a family, once each."""
    parts = config.parts
    yield from VISION[layout]
    if parts.encoder_reads == "two images":
        merge = replace(MERGE, first_layer=config.text.nlvr_merge_from)
        yield from _under(ENCODER, (*REST, *SELF, *DUAL_CROSS, merge))
        yield from NLVR_HEAD
    elif parts.encoder_reads:
        yield from _under(ENCODER, (*REST, *SELF, *CROSS))
    if parts.decoder_reads:
        yield from _under(DECODER, (*REST, *SELF, *CROSS))
        yield from LM_HEAD
    if parts.matching:
        yield from MATCHING
        if layout == "original":
            yield TEMPERATURE


def templates(layout: Layout) -> dict[str, str]:
    """Names of a layout with `{i}` for the layer -> names of the blip layout, for the weights of all families.

    Fused tensors are named with `{part}`.
    """
    text = (*REST, *SELF, *CROSS)
    table = (*VISION[layout], *LM_HEAD, *MATCHING, *NLVR_HEAD, *_under(ENCODER, (*text, MERGE)), *_under(DECODER, text))
    names = {other: blip for rule in table for blip, other in rule.tensors()}
    return {alias: names[name] for alias, name in ALIASES} | names


def expand(table: Iterable[Rule], config: BlipConfig) -> dict[str, tuple[str, ...]]:
    """Name in the other layout -> name in the blip layout, or the names of a fused tensor's parts in their order."""
    names: dict[str, tuple[str, ...]] = {}
    for rule in table:
        num_layers = config.vision.num_layers if rule.blip.startswith("vision.") else config.text.num_layers
        for i in range(rule.first_layer, num_layers) if "{i}" in rule.blip else range(1):
            for blip, other in rule.tensors():
                blip = blip.replace("{i}", str(i))
                parts = tuple(blip.replace("{part}", part) for part in rule.split)
                names[other.replace("{i}", str(i))] = parts or (blip,)
    return names


def shared_names(config: BlipConfig) -> dict[str, str]:
    """Encoder name -> decoder name of each tensor that pre-training shares; empty for other families."""
    if not config.parts.shared:
        return {}
    encoder = [blip for (blip,) in expand(_under(ENCODER, (*REST, *CROSS)), config).values()]
    return {name: "decoder" + name.removeprefix("encoder") for name in encoder}


def momentum_names(config: BlipConfig) -> dict[str, tuple[str, ...]]:
    """The original's names of momentum weights -> `momentum.` and the names in the blip layout."""
    names = {}
    for other, blip in expand(rules(config, "original"), config).items():
        part = blip[0].split(".")[0]
        if config.parts.matching and part in MOMENTUM:
            prefix, momentum_prefix = MOMENTUM[part]
            names[momentum_prefix + other.removeprefix(prefix)] = tuple(f"momentum.{name}" for name in blip)
    return names


def _under(prefix: tuple[str, str], table: Iterable[Rule]) -> Iterator[Rule]:
    return (rule.under(*prefix) for rule in table)
