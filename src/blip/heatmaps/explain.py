"""Explanations of a model's output for an image: choose the text, compute its maps, attach tokens and scores."""

from __future__ import annotations

from typing import Literal

import torch
from PIL.Image import Image
from torch import Tensor

from blip import inference
from blip.heatmaps.methods import answer_maps, caption_maps, match_maps
from blip.model.blip import BlipModel
from blip.tokenizer import Tokenizer
from blip_lite.config import BlipConfig
from blip_lite.decoding import Beam
from blip_lite.errors import MissingPart, UsageError
from blip_lite.explanation import Explanation, Method, Subject

MAX_LENGTH = 35  # maximum number of ids of a text or question, as in matching and VQA


def explain(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    text: str | None = None,
    method: Method = "gradcam",
    layer: int | None = None,
    *,
    subject: Subject | None = None,
    image: Image | None = None,
) -> Explanation:
    """Maps of image_embeds [1, N, D] for a text matched with the image, a caption, or the answer to a question.

    text: a question for a VQA model; else the text to match, or the caption if the model cannot match; None = the
    caption that the model generates. subject: "caption" treats a text as a caption even if the model can match it.
    image: stored in the result for overlays. Raises MissingPart if the model has no such output, UsageError if a text
    is required and missing.
    """
    required = required_text(model.config)
    _check_subject(model.config, subject)
    if required is not None and (text is None or not text.strip()):
        raise UsageError(f"nothing to explain: this model needs {required}")
    device = image_embeds.device
    ids: tuple[int, ...]
    chosen: Subject
    if text is not None and required == "a question":
        answer = inference.answer(
            model, tokenizer, image_embeds, [text], Beam(num_beams=3, min_length=1, max_length=10)
        )[0][0]
        question_ids = tokenizer.encode([text], first="enc", max_length=MAX_LENGTH).input_ids.to(device)
        answer_ids = torch.tensor([[model.config.text.dec_id, *answer.ids]], device=device)
        chosen, text, ids = "answer", answer.text, answer.ids
        maps = answer_maps(model, question_ids, answer_ids, image_embeds, method, layer)
    elif text is not None and model.config.parts.matching and subject != "caption":
        input_ids = tokenizer.encode([text], first="enc", max_length=MAX_LENGTH).input_ids.to(device)
        chosen, ids = "match", tuple(input_ids[0].tolist())
        maps = match_maps(model, input_ids, image_embeds, method, layer)
    else:
        prompt = tokenizer.prompt_ids(model.config.prompt)
        if text is None:
            caption = inference.caption(model, tokenizer, image_embeds, Beam())[0][0]
            text, ids = caption.text, caption.ids
        else:
            ids = (*tokenizer.word_ids(text)[: MAX_LENGTH - len(prompt) - 1], model.config.text.sep_id)
        input_ids = torch.tensor([[*prompt, *ids]], device=device)
        chosen, maps = "caption", caption_maps(model, input_ids, len(prompt), image_embeds, method, layer)
    return Explanation(
        tuple(tokenizer.pieces(ids)),
        maps.maps.float().cpu().numpy(),
        method,
        maps.layer,
        float(maps.scores.mean()),
        chosen,
        text,
        image,
    )


def required_text(config: BlipConfig) -> Literal["a question", "a text"] | None:
    """The text that a model needs for an explanation; None if it can explain a caption that it generates.

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


def _check_subject(config: BlipConfig, subject: Subject | None) -> None:
    parts = config.parts
    subjects = {
        "match": parts.matching,
        "caption": parts.decoder_reads == "image",
        "answer": parts.decoder_reads == "encoder",
    }
    if subject is not None and not subjects.get(subject):
        allowed = ", ".join(name for name, supported in subjects.items() if supported)
        raise MissingPart(f"a '{config.family}' model has no heat-maps of '{subject}'; must be one of {allowed}")
