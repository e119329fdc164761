"""How the original and the Transformers classes name our tensors, as tables. No tensors here.

A rule is data: `{i}` stands for the layer, `*` for weight and bias, and `{part}` on our side for the pieces of a
tensor that the others store fused. `expand` spells every name out for a config. What is not a weight of its own is
named too, never skipped: aliases (stored twice), derived tensors, training state.
Source: state dicts of salesforce/BLIP models/*.py and of transformers.models.blip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from blip_lite.config import BlipConfig

Layout = Literal["blip", "original", "hf"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Our name, their name. `first_layer`: lower layers have no such tensor."""

    ours: str
    theirs: str
    split: tuple[str, ...] = ()
    first_layer: int = 0

    def under(self, ours: str, theirs: str) -> Rule:
        return replace(self, ours=f"{ours}.{self.ours}", theirs=f"{theirs}.{self.theirs}")


QKV = ("q", "k", "v")

VISION: dict[Layout, tuple[Rule, ...]] = {
    "original": (
        Rule("vision.cls_token", "visual_encoder.cls_token"),
        Rule("vision.pos_embed", "visual_encoder.pos_embed"),
        Rule("vision.patch_embed.*", "visual_encoder.patch_embed.proj.*"),
        Rule("vision.blocks.{i}.norm1.*", "visual_encoder.blocks.{i}.norm1.*"),
        Rule("vision.blocks.{i}.attn.{part}.*", "visual_encoder.blocks.{i}.attn.qkv.*", split=QKV),
        Rule("vision.blocks.{i}.attn.out.*", "visual_encoder.blocks.{i}.attn.proj.*"),
        Rule("vision.blocks.{i}.norm2.*", "visual_encoder.blocks.{i}.norm2.*"),
        Rule("vision.blocks.{i}.mlp.fc1.*", "visual_encoder.blocks.{i}.mlp.fc1.*"),
        Rule("vision.blocks.{i}.mlp.fc2.*", "visual_encoder.blocks.{i}.mlp.fc2.*"),
        Rule("vision.norm.*", "visual_encoder.norm.*"),
    ),
    "hf": (
        Rule("vision.cls_token", "vision_model.embeddings.class_embedding"),
        Rule("vision.pos_embed", "vision_model.embeddings.position_embedding"),
        Rule("vision.patch_embed.*", "vision_model.embeddings.patch_embedding.*"),
        Rule("vision.blocks.{i}.norm1.*", "vision_model.encoder.layers.{i}.layer_norm1.*"),
        Rule("vision.blocks.{i}.attn.{part}.*", "vision_model.encoder.layers.{i}.self_attn.qkv.*", split=QKV),
        Rule("vision.blocks.{i}.attn.out.*", "vision_model.encoder.layers.{i}.self_attn.projection.*"),
        Rule("vision.blocks.{i}.norm2.*", "vision_model.encoder.layers.{i}.layer_norm2.*"),
        Rule("vision.blocks.{i}.mlp.fc1.*", "vision_model.encoder.layers.{i}.mlp.fc1.*"),
        Rule("vision.blocks.{i}.mlp.fc2.*", "vision_model.encoder.layers.{i}.mlp.fc2.*"),
        Rule("vision.norm.*", "vision_model.post_layernorm.*"),
    ),
}

# The text side is the same in both layouts.
SELF = (
    Rule("blocks.{i}.attn.q.*", "encoder.layer.{i}.attention.self.query.*"),
    Rule("blocks.{i}.attn.k.*", "encoder.layer.{i}.attention.self.key.*"),
    Rule("blocks.{i}.attn.v.*", "encoder.layer.{i}.attention.self.value.*"),
    Rule("blocks.{i}.attn.out.*", "encoder.layer.{i}.attention.output.dense.*"),
    Rule("blocks.{i}.attn_norm.*", "encoder.layer.{i}.attention.output.LayerNorm.*"),
)
REST = (  # what encoder and decoder share in pre-training, with CROSS
    Rule("embed.word.weight", "embeddings.word_embeddings.weight"),
    Rule("embed.position.weight", "embeddings.position_embeddings.weight"),
    Rule("embed.norm.*", "embeddings.LayerNorm.*"),
    Rule("blocks.{i}.mlp.fc1.*", "encoder.layer.{i}.intermediate.dense.*"),
    Rule("blocks.{i}.mlp.fc2.*", "encoder.layer.{i}.output.dense.*"),
    Rule("blocks.{i}.mlp_norm.*", "encoder.layer.{i}.output.LayerNorm.*"),
)
CROSS = (
    Rule("blocks.{i}.cross.q.*", "encoder.layer.{i}.crossattention.self.query.*"),
    Rule("blocks.{i}.cross.k.*", "encoder.layer.{i}.crossattention.self.key.*"),
    Rule("blocks.{i}.cross.v.*", "encoder.layer.{i}.crossattention.self.value.*"),
    Rule("blocks.{i}.cross.out.*", "encoder.layer.{i}.crossattention.output.dense.*"),
    Rule("blocks.{i}.cross_norm.*", "encoder.layer.{i}.crossattention.output.LayerNorm.*"),
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
TEMPERATURE = Rule("temperature", "temp")  # the original only, and there not in its matcher
NLVR_HEAD = (
    Rule("nlvr_head.fc1.*", "cls_head.0.*"),
    Rule("nlvr_head.fc2.*", "cls_head.2.*"),
)

ENCODER, DECODER = ("encoder", "text_encoder"), ("decoder", "text_decoder.bert")

# Their names of one tensor: the second name may be absent from a file, and must be equal where it is not.
ALIASES = (
    ("text_decoder.cls.predictions.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight"),
    ("text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.bias"),
)
DERIVED = (  # 0, 1, 2, ... as a buffer: older files have it, newer may not
    "text_encoder.embeddings.position_ids",
    "text_encoder_m.embeddings.position_ids",
    "text_decoder.bert.embeddings.position_ids",
)
# FamilySpec of the deprecated Transformers class `BlipModel` that belong to no BLIP network.
FOREIGN = ("logit_scale", "visual_projection.", "text_projection.", "text_model.pooler.")

MOMENTUM = {  # our part -> the original's name of its momentum copy
    "vision": ("visual_encoder", "visual_encoder_m"),
    "encoder": ("text_encoder", "text_encoder_m"),
    "vision_proj": ("vision_proj", "vision_proj_m"),
    "text_proj": ("text_proj", "text_proj_m"),
}
QUEUES = {  # theirs -> ours
    "image_queue": "image_queue",
    "text_queue": "text_queue",
    "idx_queue": "idx_queue",
    "queue_ptr": "queue_ptr",  # pre-training
    "ptr_queue": "queue_ptr",  # retrieval
}


def rules(config: BlipConfig, layout: Layout) -> Iterator[Rule]:
    """The rules that name the weights of a family, once each."""
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


def expand(table: Sequence[Rule] | Iterator[Rule], config: BlipConfig) -> dict[str, tuple[str, ...]]:
    """Their name -> our name, or our names in the order in which the fused tensor holds them."""
    names: dict[str, tuple[str, ...]] = {}
    for rule in table:
        for ours, theirs in _spell(rule, config):
            names[theirs] = tuple(ours.replace("{part}", part) for part in rule.split) or (ours,)
    return names


def shared_names(config: BlipConfig) -> dict[str, str]:
    """Pre-training: our encoder name -> our decoder name of the same tensor; empty for the other families."""
    if not config.parts.shared:
        return {}
    encoder = [ours for (ours,) in expand(list(_under(ENCODER, (*REST, *CROSS))), config).values()]
    return {name: "decoder" + name.removeprefix("encoder") for name in encoder}


def momentum_names(config: BlipConfig) -> dict[str, tuple[str, ...]]:
    """The original's name of a momentum weight -> our names, `momentum.` before those of the online weight."""
    names = {}
    for theirs, ours in expand(rules(config, "original"), config).items():
        part = ours[0].split(".")[0]
        if config.parts.matching and part in MOMENTUM:
            online, momentum = MOMENTUM[part]
            names[momentum + theirs.removeprefix(online)] = tuple(f"momentum.{name}" for name in ours)
    return names


def _under(prefix: tuple[str, str], table: Sequence[Rule]) -> Iterator[Rule]:
    return (rule.under(*prefix) for rule in table)


def _spell(rule: Rule, config: BlipConfig) -> Iterator[tuple[str, str]]:
    num_layers = config.vision.num_layers if rule.ours.startswith("vision.") else config.text.num_layers
    layers = range(rule.first_layer, num_layers) if "{i}" in rule.ours else range(1)
    for i in layers:
        for kind in ("weight", "bias") if rule.ours.endswith("*") else ("",):
            yield tuple(  # type: ignore[misc]
                name.replace("{i}", str(i)).replace("*", kind) for name in (rule.ours, rule.theirs)
            )
