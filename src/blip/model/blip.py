"""`BlipModel`: one class for all families, composed from a config. Tensors in, tensors out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.model.losses import at_least_float32
from blip.model.modules import Module
from blip.model.text import TextTransformer
from blip.model.vision import VisionTransformer
from blip_lite.config import FAMILIES, BlipConfig, FamilySpec
from blip_lite.errors import MissingPart


class NLVRHead(Module):
    """Classifier of a statement about two images (false, true): [..., D] -> [..., 2]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(F.relu(self.fc1(x)))
        return logits


class BlipModel(nn.Module):
    """Mixture of encoder-decoder of the BLIP paper (section 3.1), with the parts of its family.

    `blip_lite.config.FAMILIES` lists the parts. Methods raise MissingPart if the family lacks a part that they need.
    Momentum copies and queues are training state (`blip.model.momentum`), not part of the model.
    """

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        parts, vision, text = config.parts, config.vision, config.text
        self.vision = VisionTransformer(vision)
        if parts.decoder_reads:
            source = vision.width if parts.decoder_reads == "image" else text.width
            self.decoder = TextTransformer(text, source, lm_head=True)
        if parts.encoder_reads:
            self.encoder = TextTransformer(text, vision.width, dual_cross=parts.encoder_reads == "two images")
        if parts.shared:
            share_all_but_self_attention(self.encoder, self.decoder)
        if parts.matching:
            self.vision_proj = nn.Linear(vision.width, config.proj_width)
            self.text_proj = nn.Linear(text.width, config.proj_width)
            self.itm_head = nn.Linear(text.width, 2)
            self.temperature = nn.Parameter(torch.tensor(0.07))
        if parts.encoder_reads == "two images":
            self.nlvr_head = NLVRHead(text.width)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.vision.cls_token.device

    def require(self, part: str) -> None:
        """Raise MissingPart if the family lacks a part (the name of a module)."""
        if not hasattr(self, part):
            families = ", ".join(name for name, parts in FAMILIES.items() if _has(parts, part))
            raise MissingPart(f"a '{self.config.family}' model has no {part}; families with one: {families}")

    def encode_image(self, pixel_values: Tensor, first_only: bool = False) -> Tensor:
        """pixel_values [B, 3, S, S] -> image_embeds [B, N, D], [CLS] first (`first_only`: [B, 1, D])."""
        return self.vision(pixel_values, first_only)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, first_only: bool = False) -> Tensor:
        """Unimodal text encoder ([CLS] first): [B, T] -> hidden states [B, T, D] (`first_only`: [B, 1, D])."""
        self.require("encoder")
        return self.encoder(input_ids, attention_mask, first_only=first_only)

    def fuse(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        image_embeds: Tensor,
        image_mask: Tensor | None = None,
    ) -> Tensor:
        """Image-grounded text encoder ([ENC] first): [R, T] over [I, N, D] -> [R, T, D]; rows image-major."""
        self.require("encoder")
        cross = self.encoder.cross_keys_values(image_embeds)
        return self.encoder(input_ids, attention_mask, cross=cross, cross_mask=image_mask)

    def decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        source: Tensor,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """Image-grounded (or question-grounded) decoder ([DEC] first): logits [R, T, V] of the next tokens."""
        return self.decoder.logits(self.decoder_states(input_ids, attention_mask, source, source_mask))

    def decoder_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        source: Tensor,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of `decode` before the language-model head: [R, T, D]."""
        self.require("decoder")
        cross = self.decoder.cross_keys_values(source)
        return self.decoder(input_ids, attention_mask, cross=cross, cross_mask=source_mask, causal=True)

    def lm_loss(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, source: Tensor) -> Tensor:
        """Mean label-smoothed loss of the next tokens; equals `losses.lm_loss` of `decode` at a fraction of the cost.

        labels [R, T], -100 = ignored. Only states that have a label pass the head: with short texts padded to the
        longest, most of the [R, T, V] scores would belong to padding.
        """
        selected = labels[:, 1:] != -100
        logits = self.next_token_logits(input_ids, attention_mask, selected, source)
        return F.cross_entropy(
            at_least_float32(logits), labels[:, 1:][selected], label_smoothing=self.config.text.label_smoothing
        )

    def next_token_logits(self, input_ids: Tensor, attention_mask: Tensor, selected: Tensor, source: Tensor) -> Tensor:
        """`decode` at selected positions only: selected [R, T - 1], bool -> logits [K, V] of the tokens after them."""
        states = self.decoder_states(input_ids, attention_mask, source)
        return self.decoder.logits(states[:, :-1][selected])

    def reason(self, input_ids: Tensor, attention_mask: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
        """NLVR2: statements [B, T] about two images (embeds [B, N, D] each) -> logits [B, 2]; class 1 = true."""
        self.require("nlvr_head")
        cross = self.encoder.cross_keys_values((first, second))
        hidden = self.encoder(input_ids, attention_mask, cross=cross, first_only=True)
        return self.nlvr_head(hidden[:, 0])

    def project_image(self, image_embeds: Tensor) -> Tensor:
        """image_embeds [B, N, D] -> image_features [B, E] of unit length, from [CLS]."""
        self.require("vision_proj")
        return F.normalize(self.vision_proj(image_embeds[:, 0]), dim=-1)

    def project_text(self, hidden: Tensor) -> Tensor:
        """Hidden states of `encode_text` [B, T, D] -> text_features [B, E] of unit length, from the first token."""
        self.require("text_proj")
        return F.normalize(self.text_proj(hidden[:, 0]), dim=-1)

    def match_logits(self, hidden: Tensor) -> Tensor:
        """Fused hidden states [R, T, D] -> ITM logits [R, 2] of the first token; class 1 = match."""
        self.require("itm_head")
        logits: Tensor = self.itm_head(hidden[:, 0])
        return logits


def share_all_but_self_attention(encoder: TextTransformer, decoder: TextTransformer) -> None:
    """Make the encoder use the decoder's embeddings, cross-attentions and MLPs.

    Parameter sharing of pre-training (BLIP paper table 3; original: blip_pretrain.py tie_encoder_decoder_weights).
    """
    encoder.embed = decoder.embed
    for block, shared in zip(encoder.blocks, decoder.blocks, strict=True):
        for name in ("cross", "cross_norm", "mlp", "mlp_norm"):
            setattr(block, name, getattr(shared, name))


def _has(parts: FamilySpec, part: str) -> bool:
    if part == "encoder":
        return parts.encoder_reads is not None
    if part == "decoder":
        return parts.decoder_reads is not None
    return parts.encoder_reads == "two images" if part == "nlvr_head" else parts.matching
