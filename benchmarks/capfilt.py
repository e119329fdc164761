"""CapFilt side by side: captions of photos, and match scores of these and of web texts by ITM and ITC.

Captioner and filter have random ViT-B weights, read by both sides from the same folders. The peer encodes each photo as
often as ours does, scores all texts in one padded pass each for ITM and ITC, and reads pixels prepared before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import blip
from benchmarks.capfilt_weights import write_random
from benchmarks.cases import PEER_BEAM, PEER_NUCLEUS, WEIGHTS, Case, Work
from benchmarks.operations import Operations
from benchmarks.peers import PHOTOS
from benchmarks.timing import Call
from blip.capfilt.models import MAX_WORDS, CaptionFilter
from blip.capfilt.texts import Captions
from blip.io.image import prepare
from blip_lite.decoding import Beam, Decoding, Nucleus
from blip_lite.image import read, square
from blip_lite.tokenizer import clean_caption

COUNT, SIZE = 4, 384
LENGTH = 20  # of ids with the prompt, forced: the longest by default
WEB = ("a black and white photo for sale", "my holidays 2009", "coffee", "view from the window of our hotel room")
DECODINGS: dict[str, tuple[Decoding, dict[str, Any]]] = {
    "beam 3": (Beam(num_beams=3, max_length=LENGTH, min_length=LENGTH), PEER_BEAM),
    "nucleus 0.9": (Nucleus(top_p=0.9, max_length=LENGTH, min_length=LENGTH), PEER_NUCLEUS),
}
Row = list[tuple[str, float, float]]  # of a photo: its web text and its synthetic one, each with ITM and ITC


@dataclass(frozen=True)
class Side:
    """A captioner and a filter, ours and in the classes of `transformers`."""

    ours: CaptionFilter
    captioner: Any
    filter: Any
    is_shared: bool  # the vision weights of both are equal

    def call_ours(self, decoding: Decoding) -> Call:
        images = [(np.asarray(square(read(path), SIZE)),) * len(self.ours.towers) for path in PHOTOS[:COUNT]]
        captions, keys = Captions(decoding=decoding), [str(i) for i in range(COUNT)]

        def call() -> list[Row]:
            scored = self.ours(images, [[text] for text in WEB], keys, captions)
            return [[(text.text, text.itm, text.itc) for text in row] for row in scored]

        return call

    def call_peer(self, settings: dict[str, Any]) -> Call:
        pixels = self._pixels()

        def call() -> list[Row]:
            with torch.inference_mode():
                embeds = self.captioner.vision_model(pixels)[0]
                texts = self._captions(embeds, settings)
                states = embeds if self.is_shared else self.filter.vision_model(pixels)[0]
                return self._scores(states, texts)

        return call

    def call_documented(self, settings: dict[str, Any]) -> Call:
        """The calls of the model cards for one photo: each of them encodes the photo of each text."""
        pixels = self._pixels()[:1]

        def call() -> list[Row]:
            with torch.inference_mode():
                texts = self._captions(self.captioner.vision_model(pixels)[0], settings)
                pairs, repeated = [WEB[0], texts[0]], pixels.repeat_interleave(2, 0)
                fused, plain = (self._encode(pairs, first) for first in ("enc", "cls"))
                logits = self.filter(pixel_values=repeated, **fused).itm_score
                cosines = self.filter(pixel_values=repeated, **plain, use_itm_head=False).itm_score.diagonal()
                return [list(zip(pairs, logits.softmax(-1)[:, 1].tolist(), cosines.tolist(), strict=True))]

        return call

    def _pixels(self) -> Tensor:
        config = self.ours.filter.config
        images = [read(path) for path in PHOTOS[:COUNT]]
        return prepare(images, size=SIZE, mean=config.image_mean, std=config.image_std)

    def _captions(self, embeds: Tensor, settings: dict[str, Any]) -> list[str]:
        """Generate as `BlipForConditionalGeneration` does after its vision tower."""
        assert self.ours.captioner is not None
        backend = self.ours.captioner.backend
        prompt, text = backend.tokenizer.prompt_ids(backend.config.prompt), backend.config.text
        torch.manual_seed(0)
        ids = self.captioner.text_decoder.generate(
            input_ids=torch.tensor([prompt] * len(embeds)),
            attention_mask=torch.ones(len(embeds), len(prompt), dtype=torch.long),
            encoder_hidden_states=embeds,
            encoder_attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            eos_token_id=text.sep_id,
            pad_token_id=text.pad_id,
            min_new_tokens=LENGTH - len(prompt),
            max_new_tokens=LENGTH - len(prompt),
            **settings,
        )
        return [backend.tokenizer.decode(row[len(prompt) :]) for row in ids.tolist()]

    def _scores(self, embeds: Tensor, synthetic: list[str]) -> list[Row]:
        texts = [text for pair in zip(WEB, synthetic, strict=True) for text in pair]
        states = embeds.repeat_interleave(2, 0)
        fused = self.filter.text_encoder(
            **self._encode(texts, "enc"),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long),
        )
        plain = self.filter.text_encoder(**self._encode(texts, "cls"))
        itm = self.filter.itm_head(fused.last_hidden_state[:, 0]).softmax(-1)[:, 1]
        image_features = F.normalize(self.filter.vision_proj(states[:, 0]), dim=-1)
        text_features = F.normalize(self.filter.text_proj(plain.last_hidden_state[:, 0]), dim=-1)
        scores = zip(texts, itm.tolist(), (image_features * text_features).sum(-1).tolist(), strict=True)
        rows = list(scores)
        return [rows[i : i + 2] for i in range(0, len(rows), 2)]

    def _encode(self, texts: list[str], first: Any) -> dict[str, Tensor]:
        cleaned = [clean_caption(text, MAX_WORDS) for text in texts]
        encoded = self.ours.filter.backend.tokenizer.encode(cleaned, first=first, max_length=35)
        return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}


def sides() -> Iterator[tuple[str, Side]]:
    """Pairs of models whose vision weights are equal, and whose are not."""
    with tempfile.TemporaryDirectory() as folder:
        captioner = write_random(Path(folder, "captioner"), "caption", SIZE)
        peer = transformers.BlipForConditionalGeneration.from_pretrained(captioner).eval()
        for seed, title in ((0, "shared vision"), (1, "two towers")):
            judge = write_random(Path(folder, title), "retrieval", SIZE, seed)
            ours = CaptionFilter(blip.load(captioner), blip.load(judge))
            assert len(ours.towers) == 1 + seed
            filter = transformers.BlipForImageTextRetrieval.from_pretrained(judge).eval()
            yield title, Side(ours, peer, filter, is_shared=not seed)


def case() -> Case:
    """CapFilt on photos with one web text each, with one synthetic text each."""
    calls: dict[str, Call] = {}
    pairs: list[tuple[str, str]] = []
    work: dict[str, Work] = {}
    for title, side in sides():
        for name, (decoding, settings) in DECODINGS.items():
            ours, peer = f"ours f32, {title}, {name}", f"peer f32, {title}, {name}"
            calls |= {ours: _counted(side.call_ours(decoding), work, ours), peer: side.call_peer(settings)}
            pairs.append((ours, peer))
        documented = f"peer f32, {title}, documented calls"
        calls[documented] = side.call_documented(PEER_BEAM)
        pairs.append((f"ours f32, {title}, beam 3", documented))
    scale = {name: float(COUNT) for name in calls if name.endswith("documented calls")}
    return Case(calls, pairs, lambda outputs: {pair: same_scores(outputs, *pair) for pair in pairs}, work, 2, scale)


def _counted(call: Call, work: dict[str, Work], name: str) -> Call:
    """Return a call that adds its operations to `work` when it is called first, which is not timed."""

    def counted() -> Any:
        if name in work:
            return call()
        with Operations() as operations:
            result = call()
        work[name] = Work(operations.total / 1e9, LENGTH * WEIGHTS)
        return result

    return counted


def same_scores(outputs: dict[str, list[Row]], ours: str, peer: str) -> str:
    """Compare the scores of equal texts: all, or the web texts only if captions are sampled."""
    largest, number = 0.0, 1 if "nucleus" in ours else 2
    for a, b in zip(outputs[ours], outputs[peer], strict=False):
        for (text, *scores), (other, *others) in zip(a[:number], b[:number], strict=True):
            assert text == other, f"texts differ: {text} {other}"
            largest = max(largest, *(abs(x - y) for x, y in zip(scores, others, strict=True)))
    assert largest < 1e-4, f"scores differ by {largest}"
    return f"{'texts equal, ' if number == 2 else ''}scores within {largest:.0e}"
