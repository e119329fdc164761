"""Texts and image states to heat-maps: which text of a model is explained, as tokens with a map each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from blip import inference
from blip.model.blip import BlipModel
from blip.model.explain import Maps, Method, answer_maps, caption_maps, match_maps
from blip.tokenizer import Tokenizer
from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam
from blip_lite.errors import MissingPart, UsageError

Subject = Literal["match", "caption", "answer"]
MAX_LENGTH = 35  # ids of a text that is matched or asked, as everywhere


@dataclass(frozen=True)
class Heatmaps:
    """What was explained: a match, caption or answer, its tokens with their maps, and its score as elsewhere."""

    subject: Subject
    text: str
    tokens: tuple[str, ...]
    found: Maps
    score: float


def heatmaps(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    text: str | None = None,
    method: Method = "gradcam",
    layer: int | None = None,
    subject: Subject | None = None,
) -> Heatmaps:
    """Maps of image_embeds [1, N, D] for a text that is matched with it, a caption, or the answer to a question.

    text: of a model that answers the question; of one that matches a text, or None for its own caption; of one that
    only captions a caption, or None for its own. subject: "caption" takes a text as a caption where the model could
    match it too. Raises MissingPart where a model does none of these, or not what is asked for.
    """
    what = needed(model.config)
    _check(model.config, subject)
    if what is not None and (text is None or not text.strip()):
        raise UsageError(f"nothing to explain: this model needs {what}")
    if text is not None and what == "a question":
        return _answer(model, tokenizer, image_embeds, text, method, layer)
    if text is not None and model.config.parts.matching and subject != "caption":
        return _match(model, tokenizer, image_embeds, text, method, layer)
    return _caption(model, tokenizer, image_embeds, text, method, layer)


def needed(config: BlipConfig) -> str | None:
    """What must be said for a model to have something to explain, if it is not its own caption.

    Raises MissingPart for a model that neither captions, matches nor answers.
    """
    parts = config.parts
    if parts.decoder_reads == "encoder":
        return "a question"
    if parts.decoder_reads == "image":
        return None
    if parts.matching:
        return "a text"
    raise MissingPart(f"a '{config.family}' model has no heat-maps; use one that captions, matches or answers")


def _check(config: BlipConfig, subject: Subject | None) -> None:
    parts = config.parts
    can = {"match": parts.matching, "caption": parts.decoder_reads == "image", "answer": needed(config) == "a question"}
    if subject is not None and not can.get(subject):
        known = ", ".join(name for name, able in can.items() if able)
        raise MissingPart(f"a '{config.family}' model has no heat-maps of '{subject}'; it has of {known}")


def _match(
    model: BlipModel, tokenizer: Tokenizer, image_embeds: Tensor, text: str, method: Method, layer: int | None
) -> Heatmaps:
    ids = tokenizer.encode([text], first="enc", max_length=MAX_LENGTH).input_ids.to(image_embeds.device)
    found = match_maps(model, ids, image_embeds, method, layer)
    return Heatmaps("match", text, tuple(tokenizer.pieces(ids[0].tolist())), found, float(found.scores))


def _caption(
    model: BlipModel, tokenizer: Tokenizer, image_embeds: Tensor, text: str | None, method: Method, layer: int | None
) -> Heatmaps:
    prompt = tokenizer.prompt_ids(model.config.prompt)
    if text is None:
        own = inference.caption_embeds(model, tokenizer, image_embeds, Beam())[0][0]
        text, words = own.text, list(own.ids)
    else:
        words = [*tokenizer.word_ids(text)[: MAX_LENGTH - len(prompt) - 1], model.config.text.sep_id]
    ids = torch.tensor([[*prompt, *words]], device=image_embeds.device)
    found = caption_maps(model, ids, len(prompt), image_embeds, method, layer)
    return Heatmaps("caption", text, tuple(tokenizer.pieces(words)), found, float(found.scores.mean()))


def _answer(
    model: BlipModel, tokenizer: Tokenizer, image_embeds: Tensor, question: str, method: Method, layer: int | None
) -> Heatmaps:
    decoding = Beam(num_beams=3, min_length=1, max_length=10)
    own = inference.answer(model, tokenizer, image_embeds, [question], decoding)[0][0]
    device = image_embeds.device
    asked = tokenizer.encode([question], first="enc", max_length=MAX_LENGTH).input_ids.to(device)
    ids = torch.tensor([[model.config.text.dec_id, *own.ids]], device=device)
    found = answer_maps(model, asked, ids, image_embeds, method, layer)
    return Heatmaps("answer", own.text, tuple(tokenizer.pieces(own.ids)), found, float(found.scores.mean()))
