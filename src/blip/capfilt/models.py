"""A captioner and a filter: texts and match scores of batches of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blip import inference
from blip.capfilt.record import SYNTHETIC, WEB
from blip.capfilt.texts import Captions, ScoredText
from blip.io.image import from_pixels
from blip.torch_backend import TorchBackend
from blip_lite.model import Model, input_seed
from blip_lite.tokenizer import clean_caption

MAX_WORDS = 30  # of a text, as in training
LEAST_BATCH = 16  # images: texts are scored in groups of equal length, so a batch of 8 takes a fifth longer on a CPU
Squares = tuple[NDArray[np.uint8], ...]  # an image at the input size of each vision tower, [S, S, 3]


class CaptionFilter:
    """Captions images and scores texts. An image is encoded once if both models share vision weights and input size.

    captioner: None scores given texts only.
    """

    def __init__(self, captioner: Model[TorchBackend] | None, filter: Model[TorchBackend]) -> None:
        self.captioner, self.filter = captioner, filter
        backends = [filter.backend] if captioner is None else [captioner.backend, filter.backend]
        if len(backends) == 2 and _share_vision(*backends):
            backends[1].module.vision = backends[0].module.vision  # frees the copy
            backends.pop()
        self.towers = backends

    @property
    def sides(self) -> tuple[int, ...]:
        """Input size of each vision tower in pixels: the sizes of `Squares`."""
        return tuple(backend.config.vision.image_size for backend in self.towers)

    @property
    def default_batch_size(self) -> int:
        return max(LEAST_BATCH, self.filter.default_batch_size)

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Squares], web: Sequence[Sequence[str]], keys: Sequence[str], captions: Captions | None
    ) -> list[list[ScoredText]]:
        """Return the web texts of each image and its synthetic ones, scored. captions: None generates none."""
        embeds = [self._encode(backend, [image[i] for image in images]) for i, backend in enumerate(self.towers)]
        texts = [[ScoredText(WEB, i, text, 0.0, 0.0) for i, text in enumerate(row)] for row in web]
        if captions is not None:
            for row, synthetic in zip(texts, self._captions(embeds[0], keys, captions), strict=True):
                row += synthetic
        return self._score(embeds[-1], texts)

    def _captions(self, image_embeds: Tensor, keys: Sequence[str], captions: Captions) -> list[list[ScoredText]]:
        """Return synthetic texts without scores: of the first prompt, then of the next."""
        assert self.captioner is not None, "captions need a captioner"
        backend = self.captioner.backend
        seeds = [input_seed(captions.seed, key) for key in keys]
        rows: list[list[ScoredText]] = [[] for _ in keys]
        for prompt in captions.prompts:
            generated = inference.caption(
                backend.module, backend.tokenizer, image_embeds, captions.decoding, prompt=prompt, seeds=seeds
            )
            for row, hypotheses in zip(rows, generated, strict=True):
                for h in hypotheses:
                    row.append(ScoredText(SYNTHETIC, len(row), h.text, 0.0, 0.0, sum(h.logprobs), len(h.logprobs)))
        return rows

    def _score(self, image_embeds: Tensor, rows: Sequence[Sequence[ScoredText]]) -> list[list[ScoredText]]:
        """Return the texts with their match scores: those of the texts as training reads them.

        Match heads are trained on cleaned texts, and captioners write such texts, so others would score differently
        for their punctuation alone.
        """
        owners = [i for i, row in enumerate(rows) for _ in row]
        if not owners:
            return [[] for _ in rows]
        backend, texts = self.filter.backend, [text for row in rows for text in row]
        cleaned = [clean_caption(text.text, MAX_WORDS) for text in texts]
        scores = inference.match_own(backend.module, backend.tokenizer, image_embeds, cleaned, owners)
        scored: list[list[ScoredText]] = [[] for _ in rows]
        columns = (x.float().tolist() for x in (scores.itm, scores.itc))
        for owner, text, itm, itc in zip(owners, texts, *columns, strict=True):
            scored[owner].append(ScoredText(text.kind, text.index, text.text, itm, itc, text.logprob, text.tokens))
        return scored

    @staticmethod
    def _encode(backend: TorchBackend, squares: Sequence[NDArray[np.uint8]]) -> Tensor:
        config, module = backend.config, backend.module
        return module.encode_image(from_pixels(squares, config.image_mean, config.image_std, module.vision.cls_token))


def _share_vision(a: TorchBackend, b: TorchBackend) -> bool:
    """Return whether two models compute the same image_embeds: same architecture, weights and normalisation."""
    first, second = ((x.config.vision, tuple(x.config.image_mean), tuple(x.config.image_std)) for x in (a, b))
    pairs = zip(a.module.vision.parameters(), b.module.vision.parameters(), strict=False)
    return first == second and all(torch.equal(x, y) for x, y in pairs)
