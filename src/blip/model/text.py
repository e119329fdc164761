"""The text transformer: text encoder, image-grounded encoder, decoder, answer decoder (VQA), two-image encoder (NLVR2).

BERT with cross-attention in every layer (BLIP paper section 3.1; original: models/med.py and nlvr_encoder.py).
Arguments choose the role: `cross` is the sequence that cross-attention reads, `causal` masks later tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor, nn

from blip.model.layers import KV, MLP, Attention
from blip.model.mkldnn_linear import Linear, Packable, linear
from blip.model.modules import Blocks, Module
from blip_lite.config import TextConfig

# Cross-attention keys and values of one layer: of one image, or of two (NLVR2).
Cross = KV | tuple[KV, KV]


class SelfCache:
    """Self-attention keys and values of the previous tokens, preallocated: per layer [R, H, max_length, d]."""

    def __init__(
        self, config: TextConfig, rows: int, max_length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (rows, config.num_heads, max_length, config.width // config.num_heads)
        self.length = 0
        self.layers = [
            (torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))
            for _ in range(config.num_layers)
        ]

    def append(self, layer: int, kv: KV) -> KV:
        """Store keys and values [R, H, T, d] after the `length` previous ones; return all of them."""
        end = self.length + kv[0].shape[2]
        keys, values = self.layers[layer]
        keys[:, :, self.length : end] = kv[0]
        values[:, :, self.length : end] = kv[1]
        return keys[:, :, :end], values[:, :, :end]

    def select(self, index: Tensor) -> None:
        """Row i becomes the former row index[i]; the number of rows may change."""
        for i, (keys, values) in enumerate(self.layers):
            if len(index) == len(keys):
                for x in (keys, values):
                    used = x[:, :, : self.length]
                    used.copy_(used.index_select(0, index))
            else:
                self.layers[i] = keys.index_select(0, index), values.index_select(0, index)

    def reorder(self, index: Tensor) -> None:
        """`select`, on a CPU skipped for the identity; another device would have to be waited for."""
        if index.device.type != "cpu" or not torch.equal(index, torch.arange(len(index))):
            self.select(index)

    def repeat(self, times: int) -> None:
        """Repeat each row `times` times, copies next to each other."""
        self.layers = [
            (keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0)) for keys, values in self.layers
        ]


class Embedding(Module):
    """Word plus absolute position embedding, LayerNorm, dropout. No token types, as in the original."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_length, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, start: int) -> Tensor:
        """input_ids [R, T] at positions from `start` on -> [R, T, D]."""
        position = self.position.weight[start : start + input_ids.shape[1]]
        out: Tensor = self.dropout(self.norm(self.word(input_ids) + position))
        return out


class TextBlock(Module):
    """Self-attention, cross-attention (to one image or two) and MLP, each followed by LayerNorm (post-norm)."""

    cross: Attention | Blocks[Attention]

    def __init__(self, config: TextConfig, source_width: int | None, dual_cross: bool, merge: bool) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.attn = Attention(width, config.num_heads, dropout=config.dropout)
        self.attn_norm = nn.LayerNorm(width, eps=eps)
        if source_width is not None:
            attentions = [
                Attention(width, config.num_heads, source_width, config.dropout) for _ in range(1 + dual_cross)
            ]
            self.cross = Blocks(attentions) if dual_cross else attentions[0]
            self.cross_norm = nn.LayerNorm(width, eps=eps)
            if merge:
                self.cross_merge = Linear(2 * width, width)
        self.mlp = MLP(width, config.mlp_width)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def cross_attentions(self) -> list[Attention]:
        """The cross-attention, or the two of an NLVR2 encoder (one per image)."""
        return [self.cross] if isinstance(self.cross, Attention) else list(self.cross)

    def cross_keys_values(self, source: Tensor, index: int = 0) -> KV:
        """Keys and values of cross-attention `index` for a source [I, N, C].

        At inference each head's are contiguous, since decoding reads them at every step.
        """
        keys, values = self.cross_attentions[index].keys_values(source)
        return (keys, values) if torch.is_grad_enabled() else (keys.contiguous(), values.contiguous())

    def cross_attend(self, x: Tensor, cross: Cross, mask: Tensor | None) -> Tensor:
        """Cross-attention of x [R, T, D] to I images; R is a multiple of I, rows image-major.

        All rows of an image are queries of one attention, so its keys and values are never copied.
        """
        if isinstance(cross[0], Tensor):
            return self._attend(self.cross_attentions[0], x, cross, mask)
        both = [self._attend(a, x, kv, mask) for a, kv in zip(self.cross_attentions, cross, strict=True)]
        merge: Linear | None = getattr(self, "cross_merge", None)
        return merge(torch.cat(both, dim=-1)) if merge else (both[0] + both[1]) / 2

    @staticmethod
    def _attend(attention: Attention, x: Tensor, kv: KV, mask: Tensor | None) -> Tensor:
        queries = x.reshape(kv[0].shape[0], -1, x.shape[-1])  # [I, R/I * T, D]; len() would fix I in an export
        return attention(queries, kv, mask).reshape(x.shape)

    def forward(self, x: Tensor, kv: KV, mask: Tensor | None, cross: Cross | None, cross_mask: Tensor | None) -> Tensor:
        """x [R, T, D]; kv: self-attention keys and values; masks are broadcastable to [.., H, T, N], True = attend."""
        x = self.attn_norm(x + self.dropout(self.attn(x, kv, mask)))
        if cross is not None:
            x = self.cross_norm(x + self.dropout(self.cross_attend(x, cross, cross_mask)))
        out: Tensor = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return out


class LMHead(Packable):
    """BERT's prediction head. Its output weight is the word embedding, passed by the caller."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.fc = Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, word: Tensor) -> Tensor:
        """hidden [..., D], word [V, D] -> scores [..., V]."""
        return linear(self.norm(self.fc(hidden, gelu=True)), word, self.bias, self.packed)


class TextTransformer(Module):
    """Token ids to hidden states, with or without cross-attention.

    source_width: width of the sequence that cross-attention reads; None = no cross-attention.
    dual_cross: two cross-attentions per layer, averaged below layer `config.nlvr_merge_from`, from there on merged by
    a linear layer.
    """

    def __init__(
        self, config: TextConfig, source_width: int | None, *, dual_cross: bool = False, lm_head: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.blocks: Blocks[TextBlock] = Blocks(
            TextBlock(config, source_width, dual_cross, merge=dual_cross and i >= config.nlvr_merge_from)
            for i in range(config.num_layers)
        )
        self.lm_head = LMHead(config) if lm_head else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @overload
    def cross_keys_values(self, source: Tensor) -> list[KV]: ...

    @overload
    def cross_keys_values(self, source: tuple[Tensor, Tensor]) -> list[tuple[KV, KV]]: ...

    def cross_keys_values(self, source: Tensor | tuple[Tensor, Tensor]) -> list[KV] | list[tuple[KV, KV]]:
        """Cross-attention keys and values of every layer for a source [I, N, C] (or two): computed once per image."""
        if isinstance(source, Tensor):
            return [block.cross_keys_values(source) for block in self.blocks]
        first, second = source
        return [(block.cross_keys_values(first, 0), block.cross_keys_values(second, 1)) for block in self.blocks]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cross: Sequence[Cross] | None = None,
        cross_mask: Tensor | None = None,
        causal: bool = False,
        cache: SelfCache | None = None,
        first_only: bool = False,
    ) -> Tensor:
        """Hidden states [R, T, D] of input_ids [R, T]; with `first_only` of the first token only, [R, 1, D].

        attention_mask: [R, past + T], 1 = real token; None = all real.
        cross: `cross_keys_values` of I images; R is a multiple of I, rows image-major. None = text only.
        cross_mask: [I, N], 1 = attend; None = all.
        cache: previous tokens; the new ones are added to it.
        """
        past = cache.length if cache is not None else 0
        mask = self_mask(input_ids, attention_mask, past, causal)
        cross_mask = None if cross_mask is None else cross_mask[:, None, None, :].bool()
        x = self.embed(input_ids, past)
        for i, block in enumerate(self.blocks):
            kv = block.attn.keys_values(x)
            if cache is not None:
                kv = cache.append(i, kv)
            if first_only and i == len(self.blocks) - 1:  # only the first token's output of the last layer is used
                x, mask = x[:, :1], None if mask is None else mask[:, :, :1]
            x = block(x, kv, mask, None if cross is None else cross[i], cross_mask)
        if cache is not None:
            cache.length += input_ids.shape[1]
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token [..., V] from hidden states [..., D]."""
        if self.lm_head is None:
            raise ValueError("this text transformer was built without a language-model head")
        return self.lm_head(hidden, self.embed.word.weight)


def self_mask(input_ids: Tensor, attention_mask: Tensor | None, past: int, causal: bool) -> Tensor | None:
    """Self-attention mask of T new tokens over past + T: bool, broadcastable to [R, H, T, past + T]; None = all."""
    length = input_ids.shape[1]
    mask = None
    if causal and length > 1:
        mask = torch.ones(length, past + length, dtype=torch.bool, device=input_ids.device).tril(past)
    if attention_mask is not None:
        real = attention_mask[:, None, None, :].bool()
        mask = real if mask is None else real & mask
    return mask
