"""The tokenizer of `blip_lite` with torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

import blip_lite.tokenizer
from blip_lite.tokenizer import First


class Encoded(NamedTuple):
    """input_ids [B, T] and attention_mask [B, T] (1 = real), both int64."""

    input_ids: Tensor
    attention_mask: Tensor


class Tokenizer(blip_lite.tokenizer.Tokenizer):
    """`blip_lite.tokenizer.Tokenizer` that encodes texts to tensors."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        first: First = "cls",
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] = "longest",
    ) -> Encoded:
        """Ids and masks of texts, as `arrays` but as tensors."""
        rows = self.arrays(texts, first=first, max_length=max_length, padding=padding)
        return Encoded(torch.from_numpy(rows.input_ids), torch.from_numpy(rows.attention_mask))
