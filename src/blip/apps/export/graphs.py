"""Graphs of each family: the parts of a model as modules of plain tensors, and the names of their axes.

Texts have the shape [images, rows, tokens]: I images with R rows each, so that all rows of an image share its keys and
values. The decoder's past keys and values are inputs and outputs; `rows` names the past row that each row continues,
so that beam search can drop, repeat and reorder rows without copying them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blip.model.blip import BlipModel

# Graphs of each part that `--parts` can name.
PARTS: dict[str, tuple[str, ...]] = {
    "vision": ("vision",),
    "text": ("text", "match", "fuse", "reason"),
    "decoder": ("cross", "decoder"),
}


@dataclass(frozen=True)
class Input:
    """An input tensor, float32 or int64. axes: the name of each free axis, the size of each fixed one."""

    axes: tuple[str | int, ...]
    is_integer: bool = False

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for given sizes of the free axes."""
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.axes)


@dataclass(frozen=True)
class Graph:
    """One graph to export: a module with named inputs and outputs."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Input]
    outputs: Sequence[str]


def graphs(model: BlipModel) -> Iterator[Graph]:
    """Yield all graphs of a model's family."""
    model.requires_grad_(False)
    parts, text = model.config.parts, model.config.text
    yield _vision(model)
    image = Input(("images", "tokens", model.config.vision.width))
    if parts.encoder_reads == "two images":
        ids = Input(("images", "length"), is_integer=True)
        inputs = {"input_ids": ids, "attention_mask": ids, "first": image, "second": image}
        yield Graph("reason", Reason(model), inputs, ["logits"])
    elif parts.encoder_reads:
        ids = Input(("texts", "length"), is_integer=True)
        outputs = ["states", "text_features"] if parts.matching else ["states"]
        yield Graph("text", Text(model), {"input_ids": ids, "attention_mask": ids}, outputs)
        ids = Input(("images", "rows", "length"), is_integer=True)
        inputs = {"input_ids": ids, "attention_mask": ids, "image_embeds": image}
        yield Graph("fuse", Fuse(model), inputs, ["states"])
        if parts.matching:
            yield Graph("match", Match(model), inputs, ["itm_logits"])
    if parts.decoder_reads:
        source = image if parts.decoder_reads == "image" else Input(("images", "tokens", text.width))
        yield Graph("cross", Cross(model), {"source": source}, _kv_names("cross_", text.num_layers))
        yield _decoder(model, masked=parts.decoder_reads == "encoder")


class ModelPart(nn.Module):
    """A part of a model as a module of plain tensors."""

    def __init__(self, model: BlipModel) -> None:
        super().__init__()
        self.model = model


class Vision(ModelPart):
    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        embeds = self.model.encode_image(pixel_values)
        if not self.model.config.parts.matching:
            return (embeds,)
        return embeds, self.model.project_image(embeds)


class Text(ModelPart):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = self.model.encode_text(input_ids, attention_mask)
        if not self.model.config.parts.matching:
            return (states,)
        return states, self.model.project_text(states)


class Fuse(ModelPart):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        states = self.model.fuse(input_ids.flatten(0, 1), attention_mask.flatten(0, 1), image_embeds)
        return states.reshape(*input_ids.shape, -1)


class Match(ModelPart):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        cross = self.model.encoder.cross_keys_values(image_embeds)
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        states = self.model.encoder(ids, mask, cross=cross, first_only=True)
        return self.model.match_logits(states).reshape(*input_ids.shape[:2], 2)


class Reason(ModelPart):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return self.model.reason(input_ids, attention_mask, first, second)


class Cross(ModelPart):
    def forward(self, source: Tensor) -> list[Tensor]:
        return [x for kv in self.model.decoder.cross_keys_values(source) for x in kv]


class Decoder(ModelPart):
    """One step: new ids [I, R, T] after `past` -> scores of the last position [I, R, V], and keys and values so far.

    past, cross: keys and values, layer by layer. rows [I, R]: the row of the past that each row continues.
    """

    def forward(
        self, ids: Tensor, rows: Tensor, past: list[Tensor], cross: list[Tensor], cross_mask: Tensor | None = None
    ) -> list[Tensor]:
        text, length = self.model.decoder, past[0].shape[2]
        positions = torch.arange(length + ids.shape[2])
        new, flat = positions[length:], rows.flatten()
        x = text.embed.norm(text.embed.word(ids.flatten(0, 1)) + text.embed.position(new))
        mask = positions[None, :] <= new[:, None]
        source_mask = None if cross_mask is None else cross_mask[:, None, None, :].bool()
        states = []
        for i, block in enumerate(text.blocks):
            previous = (x.index_select(0, flat) for x in past[2 * i : 2 * i + 2])
            keys, values = (torch.cat(pair, dim=2) for pair in zip(previous, block.attn.keys_values(x), strict=True))
            x = block(x, (keys, values), mask, (cross[2 * i], cross[2 * i + 1]), source_mask)
            states += [keys, values]
        return [text.logits(x[:, -1]).reshape(*rows.shape, -1), *states]


def _vision(model: BlipModel) -> Graph:
    side = model.config.vision.image_size
    outputs = ["image_embeds", "image_features"] if model.config.parts.matching else ["image_embeds"]
    return Graph("vision", Vision(model), {"pixel_values": Input(("images", 3, side, side))}, outputs)


def _decoder(model: BlipModel, masked: bool) -> Graph:
    layers, heads = model.config.text.num_layers, model.config.text.num_heads
    width = model.config.text.width // heads
    past, cross = Input(("past_rows", heads, "past", width)), Input(("images", heads, "tokens", width))
    inputs = {
        "ids": Input(("images", "rows", "new"), is_integer=True),
        "rows": Input(("images", "rows"), is_integer=True),
        **dict.fromkeys(_kv_names("past_", layers), past),
        **dict.fromkeys(_kv_names("cross_", layers), cross),
    }
    if masked:
        inputs["cross_mask"] = Input(("images", "tokens"), is_integer=True)
    return Graph("decoder", Decoder(model), inputs, ["scores", *_kv_names("", layers)])


def _kv_names(prefix: str, num_layers: int) -> list[str]:
    """Return names of keys and values, layer by layer: `past_keys_0`, `past_values_0`, ..."""
    return [f"{prefix}{kind}_{i}" for i in range(num_layers) for kind in ("keys", "values")]


def arguments(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return values by input name in the order and nesting of the module's arguments."""
    if "rows" not in values:
        return tuple(values.values())
    past, cross = (
        [v for k, v in values.items() if k.startswith((f"{kind}_keys", f"{kind}_values"))] for kind in ("past", "cross")
    )
    mask = (values["cross_mask"],) if "cross_mask" in values else ()
    return (values["ids"], values["rows"], past, cross, *mask)
