"""What a search asks of a decoder: scores of the next token for rows of ids, while rows come and go.

`TextStepper` is the text transformer with its caches; the tests use a table, another backend may follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from blip.model.losses import at_least_float32
from blip.model.text import Cross, SelfCache, TextTransformer


class Stepper(Protocol):
    """Scores of the next token for rows of ids. Rows are image-major: n rows of image 0, n of image 1, ..."""

    def start(self, prompt: Tensor, max_length: int) -> Tensor:
        """prompt [I, P] -> scores [I, V] after it, in float32 or wider."""
        ...

    def expand(self, times: int) -> None:
        """Each image's row becomes `times` rows."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """The newest id of each row [R] -> scores [R, V]."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Row i continues what row rows[i] was (of the same image)."""
        ...

    def keep(self, images: Tensor, rows: Tensor) -> None:
        """Only these images [K] go on, with these rows [K * n]."""
        ...


class TextStepper:
    """The text transformer with its self-attention cache and the images' keys and values, never copied per row."""

    def __init__(self, text: TextTransformer, cross: Sequence[Cross], cross_mask: Tensor | None = None) -> None:
        """cross: `text.cross_keys_values` of I sources; cross_mask [I, N], 1 = look there."""
        self.text, self.cross, self.cross_mask = text, list(cross), cross_mask
        self._cache: SelfCache | None = None

    @property
    def cache(self) -> SelfCache:
        assert self._cache is not None, "start() comes first"
        return self._cache

    def start(self, prompt: Tensor, max_length: int) -> Tensor:
        keys = self.cross[0][0]
        assert isinstance(keys, Tensor), "decoders read one source"
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
        self.cross = [(kv[0][images], kv[1][images]) for kv in self.cross]
        if self.cross_mask is not None:
            self.cross_mask = self.cross_mask[images]
