"""Arrays to answers over the graphs of an exported model: the twin of `blip.inference`, without torch.

image_embeds are [B, N, D] as the graph `vision` gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blip_lite.beam_search import Floats, Generated, Ids, generate
from blip_lite.config import BlipConfig
from blip_lite.decoding import Decoding
from blip_lite.engine import Engine, Feeds, GraphStepper
from blip_lite.errors import ConfigError
from blip_lite.tokenizer import Arrays, Tokenizer

TOKENS_A_PASS = 4096  # bounds the memory of many texts
ANSWERS_A_PASS = 32  # of each question: few, so that a pass holds answers of similar length


@dataclass(frozen=True)
class Parts:
    """What every call needs of an exported model."""

    engine: Engine
    config: BlipConfig
    tokenizer: Tokenizer


def caption(parts: Parts, pixel_values: Floats, decoding: Decoding, prompt: str | None = None) -> list[list[Generated]]:
    """Captions of pixel_values [B, 3, S, S]: `decoding.num_captions` a photo, best first; the prompt is left out."""
    ids = parts.tokenizer.prompt_ids(parts.config.prompt if prompt is None else prompt)
    (embeds,) = parts.engine.run("vision", {"pixel_values": pixel_values}, ["image_embeds"])
    stepper = GraphStepper(parts.engine, parts.engine.run("cross", {"source": embeds}))
    return generate(stepper, np.tile(np.array(ids), (len(embeds), 1)), decoding, parts.config.text)


def answer(
    parts: Parts, image_embeds: Floats, questions: Sequence[str], decoding: Decoding, max_length: int = 35
) -> list[list[Generated]]:
    """Free answers to one question per image."""
    stepper, start = _after_question(parts, image_embeds, questions, max_length)
    return generate(stepper, start, decoding, parts.config.text)


def _after_question(
    parts: Parts, image_embeds: Floats, questions: Sequence[str], max_length: int
) -> tuple[GraphStepper, Ids]:
    """A decoder that looks at questions over their images, and what its texts start with [B, 1]."""
    encoded = parts.tokenizer.arrays(questions, first="enc", max_length=max_length)
    states = _fused(parts, encoded, image_embeds)
    stepper = GraphStepper(parts.engine, parts.engine.run("cross", {"source": states}), encoded.attention_mask)
    return stepper, np.full((len(questions), 1), parts.config.text.dec_id)


def _fused(parts: Parts, encoded: Arrays, image_embeds: Floats) -> Floats:
    """States [B, T, D] of one text per image."""
    ids, mask = encoded.input_ids[:, None], encoded.attention_mask[:, None]
    return _over_images(parts, "fuse", ids, mask, image_embeds)[:, 0]


@dataclass(frozen=True)
class Ranked:
    """The k answers kept for each question, best first, each [B, k]."""

    indices: Ids  # in the list of answers
    scores: Floats  # log-probability of the whole answer


def rank_answers(
    parts: Parts, image_embeds: Floats, questions: Sequence[str], answers: Arrays, *, k: int = 128, max_length: int = 35
) -> Ranked:
    """Answers out of a closed list, encoded with first="dec", to one question per image.

    The k answers with the likeliest first token are scored whole, token after token (blip-spec 4.3).
    """
    ids, lengths = answers.input_ids, answers.attention_mask.sum(axis=1)
    if k < 1 or not len(ids):
        raise ConfigError(f"k {k} of {len(ids)} answers: both must be at least 1")
    stepper, start = _after_question(parts, image_embeds, questions, max_length)
    first = _log_softmax(stepper.start(start, int(lengths.max())))[:, ids[:, 1]]
    indices = np.argsort(-first, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(first, indices, axis=1)
    order = np.argsort(lengths[indices], axis=1, kind="stable")
    for begin in range(0, indices.shape[1], ANSWERS_A_PASS):
        columns = order[:, begin : begin + ANSWERS_A_PASS]
        chosen = np.take_along_axis(indices, columns, axis=1)
        added = _rest(stepper.fork(), ids[chosen], lengths[chosen])
        np.put_along_axis(scores, columns, np.take_along_axis(scores, columns, axis=1) + added, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return Ranked(np.take_along_axis(indices, order, axis=1), np.take_along_axis(scores, order, axis=1))


def _rest(stepper: GraphStepper, ids: Ids, lengths: Ids) -> Floats:
    """Log-probability [B, n] of all tokens after the first of answers [B, n, T], after the start."""
    total = np.zeros(lengths.shape, dtype=np.float32)
    stepper.expand(ids.shape[1])
    for i in range(1, int(lengths.max()) - 1):
        found = _log_softmax(stepper.step(ids[:, :, i].ravel()))
        gained = np.take_along_axis(found, ids[:, :, i + 1].reshape(-1, 1), axis=1).reshape(lengths.shape)
        total += np.where(i + 1 < lengths, gained, 0)
    return total


def match_logits(parts: Parts, image_embeds: Floats, encoded: Arrays) -> Floats:
    """ITM logits [N, M, 2] of all images with all texts, encoded with first="enc"."""
    logits = np.empty((len(image_embeds), len(encoded.input_ids), 2), dtype=np.float32)
    for rows, ids, mask in by_length(encoded):
        for i in range(len(image_embeds)):
            logits[i, rows] = _over_images(parts, "match", ids[None], mask[None], image_embeds[i : i + 1])[0]
    return logits


def paired_logits(parts: Parts, image_embeds: Floats, encoded: Arrays) -> Floats:
    """ITM logits [N, 2] of image i with text i."""
    return _over_images(parts, "match", encoded.input_ids[:, None], encoded.attention_mask[:, None], image_embeds)[:, 0]


def _over_images(parts: Parts, graph: str, ids: Ids, mask: Ids, image_embeds: Floats) -> Floats:
    """What a graph makes of texts [I, R, T] over I images."""
    feeds: Feeds = {"input_ids": ids, "attention_mask": mask, "image_embeds": image_embeds}
    return parts.engine.run(graph, feeds)[0]


def embed_text(
    parts: Parts, texts: Sequence[str], *, projected: bool = True, tokens: bool = False, max_length: int = 35
) -> Floats:
    """Texts -> [M, E] of unit length, or the first token's states [M, D], or those of all tokens [M, T, D], then 0."""
    encoded = parts.tokenizer.arrays(texts, max_length=max_length)
    output = "text_features" if projected and not tokens else "states"
    result: Floats | None = None
    for rows, ids, mask in by_length(encoded):
        (found,) = parts.engine.run("text", {"input_ids": ids, "attention_mask": mask}, [output])
        found = found * mask[..., None] if tokens else found if projected else found[:, 0]
        if result is None:
            shape = (*encoded.input_ids.shape, found.shape[2]) if tokens else (len(texts), found.shape[1])
            result = np.zeros(shape, dtype=np.float32)
        result[(rows, slice(ids.shape[1])) if tokens else rows] = found
    if result is None:
        raise ConfigError("texts; must be at least one")
    return result


def embed_multimodal(
    parts: Parts, image_embeds: Floats, texts: Sequence[str], *, tokens: bool = False, max_length: int = 35
) -> Floats:
    """Pairs of photo and text -> the fused state of the first token [B, D], or of all tokens [B, T, D], then 0."""
    encoded = parts.tokenizer.arrays(texts, first="enc", max_length=max_length)
    states = _fused(parts, encoded, image_embeds)
    return states * encoded.attention_mask[..., None].astype(np.float32) if tokens else states[:, 0]


def reason(parts: Parts, first: Floats, second: Floats, statements: Sequence[str]) -> Floats:
    """NLVR2: chance [B] that each statement is true of its two photos (image_embeds)."""
    encoded = parts.tokenizer.arrays(statements, first="enc")
    ids, mask = encoded.input_ids, encoded.attention_mask
    feeds: Feeds = {"input_ids": ids, "attention_mask": mask, "first": first, "second": second}
    return chances(parts.engine.run("reason", feeds)[0])


def chances(logits: Floats) -> Floats:
    """Logits [..., 2] -> the chance [...] of the second class."""
    found: Floats = np.exp(_log_softmax(logits))[..., 1]
    return found


def by_length(encoded: Arrays) -> Iterator[tuple[Ids, Ids, Ids]]:
    """Texts of similar length together, cut to the longest: (indices, ids, mask) of at most TOKENS_A_PASS ids each."""
    lengths = encoded.attention_mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    end = len(order)
    while end:  # from the longest down, so that what the longest needs is what a pass holds
        longest = int(lengths[order[end - 1]])
        begin = max(0, end - max(1, TOKENS_A_PASS // longest))
        rows = order[begin:end]
        yield rows, encoded.input_ids[rows, :longest], encoded.attention_mask[rows, :longest]
        end = begin


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
