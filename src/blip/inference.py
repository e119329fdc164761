"""Captions, answers, match scores and vectors from tensors, without files, paths or choice of device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn.functional import normalize

from blip.model import device_generation, device_search, ragged
from blip.model.blip import BlipModel
from blip.model.generation import generate
from blip.model.layers import KV
from blip.model.losses import Scope, at_least_float32, lm_loss
from blip.model.stepper import TextStepper
from blip.model.text import Cross, TextTransformer
from blip.runtime import upload
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.beam_search import Generated, Hypothesis, decode_all
from blip_lite.decoding import Decoding
from blip_lite.errors import ConfigError
from blip_lite.tokenizer import First

GPU_TOKENS_PER_PASS = 1 << 16  # of padded texts: limits the memory
ANSWERS_PER_PASS = 32  # per question: few, so that the answers of a pass have similar lengths
SCORES_PER_PASS = 1 << 25  # limits the memory for scoring answers: tokens times vocabulary


def caption(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    decoding: Decoding,
    *,
    prompt: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Captions of image_embeds [B, N, D]: `decoding.num_captions` per image, best first.

    prompt: one for all images or one per image, not part of the texts; None = the model's own. seeds, generator: see
    `blip.model.generation.generate`.
    """
    model.require("decoder")
    prompt = model.config.prompt if prompt is None else prompt
    prompts = [prompt] * len(image_embeds) if isinstance(prompt, str) else list(prompt)
    ids = [tokenizer.prompt_ids(p) for p in prompts]
    results: list[list[Hypothesis]] = [[] for _ in ids]
    for rows in _by_length(ids):
        source = image_embeds if len(rows) == len(image_embeds) else image_embeds[rows]
        start = torch.tensor([ids[i] for i in rows], device=image_embeds.device)
        chosen = None if seeds is None else [seeds[i] for i in rows]
        generated = _generate(model, source, None, start, decoding, chosen, generator)
        for i, hypotheses in zip(rows, decode_all(tokenizer, generated), strict=True):
            results[i] = hypotheses
    return results


def _generate(
    model: BlipModel,
    source: Tensor,
    source_mask: Tensor | None,
    start: Tensor,
    decoding: Decoding,
    seeds: Sequence[int] | None,
    generator: torch.Generator | None = None,
) -> list[list[Generated]]:
    """Texts after start [I, P], grounded in source [I, N, C]."""
    if source.is_cuda and generator is None and device_search.supports(decoding):
        return device_generation.generate(model.decoder, source, source_mask, start, decoding, seeds)
    stepper = TextStepper(model.decoder, model.decoder.cross_keys_values(source), source_mask)
    return generate(stepper, start, decoding, model.config.text, seeds=seeds, generator=generator)


def _by_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of rows, grouped by length."""
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(len(row), []).append(i)
    return list(groups.values())


@dataclass(frozen=True)
class Matches:
    """Match probability (ITM) and cosine (ITC), each [N, M], or [N] for pairs."""

    itm: Tensor
    itc: Tensor


def match(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    texts: Sequence[str],
    *,
    max_length: int = 35,
    first: First = "enc",
    pairs: bool = False,
) -> Matches:
    """Match scores of image_embeds [N, T, D] with M texts: all combinations, or with `pairs` image i with text i.

    first: "enc" as trained, "cls" as in the original's stand-alone matcher (blip-spec 7.3).
    """
    model.require("itm_head")
    if pairs:
        return match_own(model, tokenizer, image_embeds, texts, range(len(texts)), max_length=max_length, first=first)
    image_features = model.project_image(image_embeds)
    text_features = embed_text(model, tokenizer, texts, max_length=max_length)
    encoded = tokenizer.encode(list(texts), first=first, max_length=max_length)
    rows = [match_logits(model, image, encoded) for image in torch.split(image_embeds, 1)]
    return Matches(torch.stack(rows).softmax(-1)[..., 1], image_features @ text_features.T)


def match_own(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    texts: Sequence[str],
    images: Sequence[int],
    *,
    max_length: int = 35,
    first: First = "enc",
) -> Matches:
    """Match scores [M] of each text with one of image_embeds [N, T, D], whose indices are `images`.

    Keys and values are computed once per image.
    """
    model.require("itm_head")
    encoded, device = tokenizer.encode(list(texts), first=first, max_length=max_length), image_embeds.device
    cross = model.encoder.cross_keys_values(image_embeds)
    logits = torch.empty(len(texts), 2, device=device)
    for rows, states in _text_states(model.encoder, encoded, device, cross, images, first_only=True):
        logits[rows] = model.match_logits(states).float()
    image_features = model.project_image(image_embeds)[upload(torch.tensor(list(images)), device)]
    text_features = embed_text(model, tokenizer, texts, max_length=max_length)
    return Matches(logits.softmax(-1)[:, 1], (image_features * text_features).sum(dim=1))


def match_logits(
    model: BlipModel, image_embeds: Tensor, encoded: Encoded, chosen: Sequence[int] | None = None
) -> Tensor:
    """ITM logits [M, 2] of one image [1, N, D] with all or the chosen texts."""
    model.require("itm_head")
    cross = model.encoder.cross_keys_values(image_embeds)
    if chosen is not None:
        encoded = Encoded(*(x[list(chosen)] for x in encoded))
    logits = torch.empty(len(encoded.input_ids), 2, device=image_embeds.device)
    for rows, states in _text_states(model.encoder, encoded, image_embeds.device, cross, first_only=True):
        logits[rows] = model.match_logits(states).float()
    return logits


def _text_states(
    encoder: TextTransformer,
    encoded: Encoded,
    device: torch.device,
    cross: Sequence[KV] | None = None,
    images: Sequence[int] | None = None,
    *,
    first_only: bool,
) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Hidden states of texts in passes: (indices, states [R, T, D], zero for padding; `first_only`: [R, 1, D]).

    cross, images: keys and values of images and the image of each text, None = all of the only one.
    """
    if _needs_padding(device):
        for rows, ids, mask, of_rows in _padded_passes(encoded, device, cross, images):
            states = encoder(ids, mask, cross=of_rows, first_only=first_only)
            yield rows, states if first_only else states * mask[..., None]
        return
    owners = None if images is None else torch.tensor(list(images), device=device)
    for indices, texts in ragged.passes(encoded.input_ids.to(device), encoded.attention_mask.sum(dim=1)):
        of_texts = None if owners is None else owners[indices.to(device)]
        groups = ragged.encode(encoder, texts, cross, of_texts, first_only=first_only)
        groups = [torch.cat(groups)] if first_only else groups
        yield from zip(torch.split(indices, [len(group) for group in groups]), groups, strict=True)


def _needs_padding(device: torch.device) -> bool:
    """Whether to pad texts instead of `ragged.encode`, whose many small operations would keep a GPU waiting."""
    return device.type == "cuda"


def _padded_passes(
    encoded: Encoded, device: torch.device, cross: Sequence[KV] | None, images: Sequence[int] | None
) -> Iterator[tuple[slice, Tensor, Tensor, Sequence[KV] | None]]:
    """Texts in passes, in their order: (rows, ids [R, T], attention mask [R, T], keys and values for these rows)."""
    count = 0 if cross is None or images is None else _texts_per_image(images, len(cross[0][0]))
    owners = None if images is None else upload(torch.tensor(list(images)), device)
    multiple = count or 1
    step = max(1, GPU_TOKENS_PER_PASS // encoded.input_ids.shape[1] // multiple) * multiple
    for i in range(0, len(encoded.input_ids), step):
        ids, mask = (x[i : i + step] for x in encoded)
        rows, length, of_rows = slice(i, i + len(ids)), int(mask.sum(dim=1).max()), cross
        if cross is not None and count:  # rows of whole images, in their order: nothing is copied
            of_rows = [(k[i // count : rows.stop // count], v[i // count : rows.stop // count]) for k, v in cross]
        elif cross is not None and owners is not None:
            of_rows = _OfRows(cross, owners[rows])
        yield rows, upload(ids[:, :length], device), upload(mask[:, :length], device), of_rows


def _texts_per_image(images: Sequence[int], count: int) -> int:
    """Number of texts of each image if all have as many, in the order of the images; else 0."""
    each = len(images) // max(count, 1)
    return each if list(images) == [i for i in range(count) for _ in range(each)] else 0


class _OfRows(Sequence[KV]):
    """Cross-attention keys and values of the images of rows, copied when a layer uses them."""

    def __init__(self, layers: Sequence[KV], rows: Tensor) -> None:
        self.layers, self.rows = layers, rows

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, layer: int) -> KV: ...

    @overload
    def __getitem__(self, layer: slice) -> Sequence[KV]: ...

    def __getitem__(self, layer: int | slice) -> KV | Sequence[KV]:
        if isinstance(layer, slice):
            return [self[i] for i in range(*layer.indices(len(self)))]
        keys, values = self.layers[layer]
        return keys.index_select(0, self.rows), values.index_select(0, self.rows)


def embed_image(model: BlipModel, pixel_values: Tensor, *, projected: bool = True, tokens: bool = False) -> Tensor:
    """Vectors of pixel_values [B, 3, S, S]: projected [B, E] of unit length, else the class token's states [B, D].

    tokens: states of all tokens [B, N, D].
    """
    embeds = model.encode_image(pixel_values, first_only=not tokens)
    if tokens:
        return embeds
    return model.project_image(embeds) if projected else embeds[:, 0]


def embed_text(
    model: BlipModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    projected: bool = True,
    tokens: bool = False,
    max_length: int = 35,
) -> Tensor:
    """Vectors of M texts: projected [M, E] of unit length, else the first token's states [M, D].

    tokens: states of all tokens [M, T, D]; shorter texts end with zeros.
    """
    model.require("encoder")
    encoded = tokenizer.encode(list(texts), max_length=max_length)
    result: Tensor | None = None
    for rows, states in _text_states(model.encoder, encoded, model.device, first_only=not tokens):
        vectors = states if tokens else model.project_text(states) if projected else states[:, 0]
        if result is None:
            shape = (*encoded.input_ids.shape, vectors.shape[2]) if tokens else (len(texts), vectors.shape[1])
            result = vectors.new_zeros(shape)
        if tokens:
            result[rows, : vectors.shape[1]] = vectors
        else:
            result[rows] = vectors
    assert result is not None, "at least one text"
    return result


def embed_multimodal(
    model: BlipModel,
    tokenizer: Tokenizer,
    pixel_values: Tensor,
    texts: Sequence[str],
    *,
    tokens: bool = False,
    max_length: int = 35,
) -> Tensor:
    """Fused states of image i with text i: the first token's [B, D], or with `tokens` all [B, T, D]."""
    embeds = model.encode_image(pixel_values)
    encoded = tokenizer.encode(list(texts), first="enc", max_length=max_length)
    mask = encoded.attention_mask.to(embeds.device)
    states = model.fuse(encoded.input_ids.to(embeds.device), mask, embeds)
    return states * mask[..., None] if tokens else states[:, 0]


def reason(model: BlipModel, tokenizer: Tokenizer, first: Tensor, second: Tensor, statements: Sequence[str]) -> Tensor:
    """NLVR2: probability [B] that each statement is true of its two images, pixel_values [B, 3, S, S] each."""
    encoded = tokenizer.encode(list(statements), first="enc")
    device = first.device
    embeds = model.encode_image(torch.cat([first, second]))
    logits = model.reason(encoded.input_ids.to(device), encoded.attention_mask.to(device), *embeds.chunk(2))
    return logits.softmax(dim=-1)[:, 1]


def answer(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    questions: Sequence[str],
    decoding: Decoding,
    *,
    seeds: Sequence[int] | None = None,
    attend_padding: bool = False,
    max_length: int = 35,
) -> list[list[Hypothesis]]:
    """Generated answers to one question per image, `decoding.num_captions` each.

    attend_padding: attend to padded question positions too, as the original does (blip-spec 7.6).
    """
    states, mask = question_states(model, tokenizer, image_embeds, questions, max_length)
    start = torch.full((len(questions), 1), model.config.text.dec_id, device=states.device)
    generated = _generate(model, states, None if attend_padding else mask, start, decoding, seeds)
    return decode_all(tokenizer, generated)


def question_states(
    model: BlipModel, tokenizer: Tokenizer, image_embeds: Tensor, questions: Sequence[str], max_length: int = 35
) -> tuple[Tensor, Tensor]:
    """Questions fused with their images: states [B, T, D] and mask [B, T]."""
    model.require("decoder")
    encoded = tokenizer.encode(list(questions), first="enc", max_length=max_length)
    mask = encoded.attention_mask.to(image_embeds.device)
    return model.fuse(encoded.input_ids.to(image_embeds.device), mask, image_embeds), mask


Scoring = Literal["nll", "valid", "all"]


@dataclass(frozen=True)
class Ranked:
    """The k answers kept for each question, best first, each [B, k]."""

    indices: Tensor  # into the list of answers
    scores: Tensor  # log-probability of the whole answer, or minus its smoothed loss
    first: Tensor  # probability of its first token


def rank_answers(
    model: BlipModel,
    tokenizer: Tokenizer,
    image_embeds: Tensor,
    questions: Sequence[str],
    answers: Encoded,
    *,
    k: int = 128,
    scoring: Scoring = "nll",
    max_length: int = 35,
) -> Ranked:
    """Rank a closed list of answers, encoded with first="dec", for one question per image.

    The k answers with the most probable first token are scored in full (blip-spec 4.3). scoring: "nll", the
    log-probability of their tokens; "valid", the original's label-smoothed loss under current torch; "all", the same
    under the torch of its time, where padding up to the longest answer counts (blip-spec 7.1).
    """
    if k < 1 or not len(answers.input_ids):
        raise ConfigError(f"k {k} of {len(answers.input_ids)} answers: both must be at least 1")
    if bool((answers.input_ids[:, 0] != model.config.text.dec_id).any()):
        raise ConfigError("answers: must start with [DEC]; encode them with first='dec'")
    states, mask = question_states(model, tokenizer, image_embeds, questions, max_length)
    cross = model.decoder.cross_keys_values(states)
    ids = answers.input_ids.to(states.device)
    start = torch.full((len(questions), 1), model.config.text.dec_id, device=states.device)
    hidden = model.decoder(start, cross=cross, cross_mask=mask)[:, 0]
    probabilities = at_least_float32(model.decoder.logits(hidden)).softmax(dim=-1)[:, ids[:, 1]]
    first, indices = probabilities.topk(min(k, len(ids)), dim=1)
    scores = -_answer_losses(model, cross, mask, answers, indices, scoring)
    order = scores.argsort(dim=1, descending=True)
    return Ranked(*(x.gather(1, order) for x in (indices, scores, first)))


def _answer_losses(
    model: BlipModel, cross: Sequence[Cross], mask: Tensor, answers: Encoded, indices: Tensor, scoring: Scoring
) -> Tensor:
    """Loss [B, k] of the answers at indices [B, k]; answers of similar length share a pass."""
    smoothing = 0.0 if scoring == "nll" else model.config.text.label_smoothing
    scope: Scope = "all" if scoring == "all" else "valid"
    ids, real = (x.to(indices.device) for x in answers)
    lengths = real.sum(dim=1)[indices]
    column = len(indices) * ids.shape[1] * model.config.text.vocab_size
    width = max(1, min(ANSWERS_PER_PASS, SCORES_PER_PASS // column))
    losses: Tensor | None = None
    for columns in torch.split(lengths.argsort(dim=1), width, dim=1):
        chosen = indices.gather(1, columns).flatten()
        longest = ids.shape[1] if scoring == "all" else int(lengths.gather(1, columns).max())
        rows, seen = ids[chosen, :longest], real[chosen, :longest]
        hidden = model.decoder(rows, seen, cross=cross, cross_mask=mask, causal=True)
        labels = rows.masked_fill(seen == 0, -100)
        loss = lm_loss(model.decoder.logits(hidden), labels, smoothing, "none", scope)
        losses = loss.new_empty(indices.shape) if losses is None else losses
        losses.scatter_(1, columns, loss.view(columns.shape))
    assert losses is not None, "at least one answer"
    return losses


def embed_video(model: BlipModel, frames: Tensor) -> tuple[Tensor, Tensor]:
    """States of all tokens [V, F * N, D] and vectors [V, E] of clips of F frames [V, F, 3, S, S].

    The states serve as image_embeds. A vector is the normalised mean of those of the frames before normalisation
    (original: eval_retrieval_video.py).
    """
    model.require("vision_proj")
    embeds = model.encode_image(frames.flatten(0, 1))
    embeds = embeds.view(*frames.shape[:2], *embeds.shape[1:])
    return embeds.flatten(1, 2), normalize(model.vision_proj(embeds[:, :, 0]).mean(dim=1), dim=-1)
