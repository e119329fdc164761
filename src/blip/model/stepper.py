"""`Stepper`, the interface between search and decoder, and its implementation over the text transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from blip.model.layers import KV
from blip.model.losses import at_least_float32
from blip.model.text import SelfCache, TextTransformer


class Stepper(Protocol):
    """Scores of the next token for rows of ids. Rows are image-major: n rows of image 0, n of image 1, ..."""

    def start(self, prompt: Tensor, max_length: int) -> Tensor:
        """prompt [I, P] -> scores [I, V] after it, in float32 or wider."""
        ...

    def expand(self, times: int) -> None:
        """Repeat each image's row `times` times."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """The last id of each row [R] -> scores [R, V]."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Row i continues the former row rows[i] (of the same image)."""
        ...

    def keep(self, images: Tensor, rows: Tensor) -> None:
        """Keep only these images [K] and rows [K * n]."""
        ...


class TextStepper:
    """The text transformer with a self-attention cache; keys and values of images are never copied per row."""

    def __init__(self, text: TextTransformer, cross: Sequence[KV], cross_mask: Tensor | None = None) -> None:
        """cross: `text.cross_keys_values` of I sources; cross_mask [I, N], 1 = attend."""
        self.text, self.cross, self.cross_mask = text, list(cross), cross_mask
        self._cache: SelfCache | None = None

    @property
    def cache(self) -> SelfCache:
        assert self._cache is not None, "start() was not called"
        return self._cache

    def start(self, prompt: Tensor, max_length: int) -> Tensor:
        keys = self.cross[0][0]
        self._cache = SelfCache(self.text.config, len(prompt), max_length, keys.device, keys.dtype)
        return self._scores(prompt)

    def _scores(self, ids: Tensor) -> Tensor:
        hidden = self.text(ids, cross=self.cross, cross_mask=self.cross_mask, causal=True, cache=self.cache)
        return at_least_float32(self.text.logits(hidden[:, -1]))

    def expand(self, times: int) -> None:
        self.cache.repeat(times)

    def step(self, ids: Tensor) -> Tensor:
        return self._scores(ids[:, None])

    def reorder(self, rows: Tensor) -> None:
        self.cache.reorder(rows)

    def keep(self, images: Tensor, rows: Tensor) -> None:
        self.cache.select(rows)
        self.cross = [(keys[images], values[images]) for keys, values in self.cross]
        if self.cross_mask is not None:
            self.cross_mask = self.cross_mask[images]
