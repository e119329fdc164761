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

Axes = Mapping[int, str]

# Graphs of each part that `--parts` can name.
PARTS: dict[str, tuple[str, ...]] = {
    "vision": ("vision",),
    "text": ("text", "match", "fuse", "reason"),
    "decoder": ("cross", "decoder"),
}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One graph to export. `inputs` are examples whose sizes differ, so that the exporter cannot confuse two axes.

    axes: names of the free axes of each input; all others are fixed.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Axes]
    outputs: Sequence[str]


def graphs(model: BlipModel) -> Iterator[Graph]:
    """Yield all graphs of a model's family."""
    model.requires_grad_(False)
    parts = model.config.parts
    yield _vision(model)
    if parts.encoder_reads == "two images":
        yield _reason(model)
    elif parts.encoder_reads:
        yield _text(model)
        yield _fuse(model)
        if parts.matching:
            yield _match(model)
    if parts.decoder_reads:
        yield _cross(model)
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


def kv_names(prefix: str, num_layers: int) -> list[str]:
    """Return names of keys and values, layer by layer: `past_keys_0`, `past_values_0`, ..."""
    return [f"{prefix}{kind}_{i}" for i in range(num_layers) for kind in ("keys", "values")]


IMAGES, ROWS, TOKENS = "images", "rows", "tokens"
TEXTS = {0: IMAGES, 1: ROWS, 2: "length"}


def _vision(model: BlipModel) -> Graph:
    side = model.config.vision.image_size
    outputs = ["image_embeds", "image_features"] if model.config.parts.matching else ["image_embeds"]
    return Graph(
        name="vision",
        module=Vision(model),
        inputs={"pixel_values": torch.randn(2, 3, side, side)},
        axes={"pixel_values": {0: IMAGES}},
        outputs=outputs,
    )


def _text(model: BlipModel) -> Graph:
    outputs = ["states", "text_features"] if model.config.parts.matching else ["states"]
    axes = {0: "texts", 1: "length"}
    inputs = {"input_ids": _ids(3, 5), "attention_mask": _ids(3, 5)}
    return Graph(name="text", module=Text(model), inputs=inputs, axes=dict.fromkeys(inputs, axes), outputs=outputs)


def _multimodal_inputs(model: BlipModel) -> tuple[dict[str, Tensor], dict[str, Axes]]:
    embeds = torch.randn(2, 7, model.config.vision.width)
    inputs = {"input_ids": _ids(2, 3, 5), "attention_mask": _ids(2, 3, 5), "image_embeds": embeds}
    return inputs, {"input_ids": TEXTS, "attention_mask": TEXTS, "image_embeds": {0: IMAGES, 1: TOKENS}}


def _fuse(model: BlipModel) -> Graph:
    inputs, axes = _multimodal_inputs(model)
    return Graph(name="fuse", module=Fuse(model), inputs=inputs, axes=axes, outputs=["states"])


def _match(model: BlipModel) -> Graph:
    inputs, axes = _multimodal_inputs(model)
    return Graph(name="match", module=Match(model), inputs=inputs, axes=axes, outputs=["itm_logits"])


def _reason(model: BlipModel) -> Graph:
    embeds = torch.randn(2, 7, model.config.vision.width)
    inputs = {"input_ids": _ids(2, 5), "attention_mask": _ids(2, 5), "first": embeds, "second": embeds.flip(0)}
    texts, images = {0: IMAGES, 1: "length"}, {0: IMAGES, 1: TOKENS}
    axes = {"input_ids": texts, "attention_mask": texts, "first": images, "second": images}
    return Graph(name="reason", module=Reason(model), inputs=inputs, axes=axes, outputs=["logits"])


def _cross(model: BlipModel) -> Graph:
    width = model.config.vision.width if model.config.parts.decoder_reads == "image" else model.config.text.width
    return Graph(
        name="cross",
        module=Cross(model),
        inputs={"source": torch.randn(2, 7, width)},
        axes={"source": {0: IMAGES, 1: TOKENS}},
        outputs=kv_names("cross_", model.config.text.num_layers),
    )


def _decoder(model: BlipModel, masked: bool) -> Graph:
    text = model.config.text
    width = text.width // text.num_heads
    inputs = {"ids": _ids(2, 3, 4), "rows": _ids(2, 3)}
    axes: dict[str, Axes] = {"ids": {0: IMAGES, 1: ROWS, 2: "new"}, "rows": {0: IMAGES, 1: ROWS}}
    for name in kv_names("past_", text.num_layers):
        inputs[name], axes[name] = torch.randn(9, text.num_heads, 5, width), {0: "past_rows", 2: "past"}
    for name in kv_names("cross_", text.num_layers):
        inputs[name], axes[name] = torch.randn(2, text.num_heads, 7, width), {0: IMAGES, 2: TOKENS}
    if masked:
        inputs["cross_mask"], axes["cross_mask"] = _ids(2, 7), {0: IMAGES, 1: TOKENS}
    outputs = ["scores", *kv_names("", text.num_layers)]
    return Graph(name="decoder", module=Decoder(model), inputs=inputs, axes=axes, outputs=outputs)


def _ids(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.int64)


def arguments(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return values by input name in the order and nesting of the module's arguments."""
    if "rows" not in values:
        return tuple(values.values())
    past, cross = (
        [v for k, v in values.items() if k.startswith((f"{kind}_keys", f"{kind}_values"))] for kind in ("past", "cross")
    )
    mask = (values["cross_mask"],) if "cross_mask" in values else ()
    return (values["ids"], values["rows"], past, cross, *mask)
