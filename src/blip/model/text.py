"""The one text transformer: text encoder, image-grounded encoder, decoder, VQA answer decoder, NLVR2.

BERT with cross-attention in every layer (BLIP paper section 3.1; original: models/med.py and nlvr_encoder.py).
What role it plays is a matter of arguments: `cross` says what to look at, `causal` whether to look ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from blip.model.layers import KV, MLP, Attention
from blip.model.mkldnn_linear import Linear, Packable, linear
from blip_lite.config import TextConfig

# Keys and values that one layer's cross-attention looks at: of one image, or of two (NLVR2).
Cross = KV | tuple[KV, KV]


class SelfCache:
    """Self-attention keys and values of the tokens so far, preallocated: per layer [R, H, max_length, d]."""

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
        """Stores new keys and values [R, H, T, d] after the `length` old ones; returns all so far."""
        end = self.length + kv[0].shape[2]
        keys, values = self.layers[layer]
        keys[:, :, self.length : end] = kv[0]
        values[:, :, self.length : end] = kv[1]
        return keys[:, :, :end], values[:, :, :end]

    def select(self, index: Tensor) -> None:
        """Row i becomes what row index[i] was; the number of rows may change."""
        for i, (keys, values) in enumerate(self.layers):
            if len(index) == len(keys):
                for x in (keys, values):
                    so_far = x[:, :, : self.length]
                    so_far.copy_(so_far.index_select(0, index))
            else:
                self.layers[i] = keys.index_select(0, index), values.index_select(0, index)

    def reorder(self, index: Tensor) -> None:
        """`select` that does nothing for the identity."""
        if not torch.equal(index, torch.arange(len(index), device=index.device)):
            self.select(index)

    def repeat(self, times: int) -> None:
        """Each row `times` times, its copies side by side."""
        self.layers = [
            (keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0)) for keys, values in self.layers
        ]


class Embedding(nn.Module):
    """Word plus absolute position, LayerNorm, dropout. No token types (as the original)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_length, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, start: int) -> Tensor:
        position = self.position.weight[start : start + input_ids.shape[1]]
        out: Tensor = self.dropout(self.norm(self.word(input_ids) + position))
        return out


class TextBlock(nn.Module):
    """Self-attention, cross-attention (to one image or two), MLP; post-norm each."""

    def __init__(self, config: TextConfig, source_width: int | None, dual_cross: bool, merge: bool) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.attn = Attention(width, config.num_heads, dropout=config.dropout)
        self.attn_norm = nn.LayerNorm(width, eps=eps)
        if source_width is not None:
            self.cross: nn.Module = (
                nn.ModuleList(Attention(width, config.num_heads, source_width, config.dropout) for _ in range(2))
                if dual_cross
                else Attention(width, config.num_heads, source_width, config.dropout)
            )
            self.cross_norm = nn.LayerNorm(width, eps=eps)
            if merge:
                self.cross_merge = Linear(2 * width, width)
        self.mlp = MLP(width, config.mlp_width)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.dropout)

    def cross_keys_values(self, source: Tensor | tuple[Tensor, Tensor]) -> Cross:
        if isinstance(source, tuple):
            first, second = (cast(Attention, a) for a in cast(nn.ModuleList, self.cross))
            return first.keys_values(source[0]), second.keys_values(source[1])
        return cast(Attention, self.cross).keys_values(source)

    def cross_attend(self, x: Tensor, cross: Cross, mask: Tensor | None) -> Tensor:
        """Cross-attention of x [R, T, D] to I images, R a multiple of I, rows image-major.

        All rows of an image are queries of one attention, so its keys and values are never copied.
        """
        if isinstance(cross[0], Tensor):
            return self._attend(cast(Attention, self.cross), x, cross, mask)
        pair = cast(nn.ModuleList, self.cross)
        both = [self._attend(cast(Attention, a), x, kv, mask) for a, kv in zip(pair, cross, strict=True)]
        merge = getattr(self, "cross_merge", None)
        return cast(Tensor, merge(torch.cat(both, dim=-1))) if merge else (both[0] + both[1]) / 2

    @staticmethod
    def _attend(attention: Attention, x: Tensor, kv: KV, mask: Tensor | None) -> Tensor:
        queries = x.reshape(kv[0].shape[0], -1, x.shape[-1])  # [I, R/I * T, D]; len() would fix I in an export
        attended: Tensor = attention(queries, kv, mask)
        return attended.reshape(x.shape)

    def forward(self, x: Tensor, kv: KV, mask: Tensor | None, cross: Cross | None, cross_mask: Tensor | None) -> Tensor:
        x = self.attn_norm(x + self.dropout(self.attn(x, kv, mask)))
        if cross is not None:
            x = self.cross_norm(x + self.dropout(self.cross_attend(x, cross, cross_mask)))
        return cast(Tensor, self.mlp_norm(x + self.dropout(self.mlp(x))))


class LMHead(Packable):
    """BERT's prediction head; its output weight is the word embedding, given by the caller."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.fc = Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, word: Tensor) -> Tensor:
        return linear(self.norm(self.fc(hidden, gelu=True)), word, self.bias, self.packed)


class TextTransformer(nn.Module):
    """Tokens to hidden states, with or without looking at something.

    source_width: width of what cross-attention reads; None = no cross-attention at all.
    dual_cross: two cross-attentions a layer, averaged below `config.nlvr_merge_from`, merged by a linear layer above.
    """

    def __init__(
        self, config: TextConfig, source_width: int | None, *, dual_cross: bool = False, lm_head: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.blocks = nn.ModuleList(
            TextBlock(config, source_width, dual_cross, merge=dual_cross and i >= config.nlvr_merge_from)
            for i in range(config.num_layers)
        )
        self.lm_head = LMHead(config) if lm_head else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def cross_keys_values(self, source: Tensor | tuple[Tensor, Tensor]) -> list[Cross]:
        """What every layer's cross-attention needs of a source [I, N, C] (or of two): computed once per image."""
        return [head_by_head(cast(TextBlock, block).cross_keys_values(source)) for block in self.blocks]

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
        """Hidden states [R, T, D] of input_ids [R, T], or with `first_only` those of the first token [R, 1, D].

        attention_mask: [R, past + T], 1 = real token; None = all real.
        cross: `cross_keys_values` of I images; R is a multiple of I, rows image-major. None = text alone.
        cross_mask: [I, N], 1 = look there; None = everywhere.
        cache: tokens so far; the new ones are added to it.
        """
        past = cache.length if cache is not None else 0
        mask = self_mask(input_ids, attention_mask, past, causal)
        cross_mask = None if cross_mask is None else cross_mask[:, None, None, :].bool()
        x = self.embed(input_ids, past)
        for i, module in enumerate(self.blocks):
            block = cast(TextBlock, module)
            kv = block.attn.keys_values(x)
            if cache is not None:
                kv = cache.append(i, kv)
            if first_only and i == len(self.blocks) - 1:  # nobody reads what the last layer makes of the others
                x, mask = x[:, :1], None if mask is None else mask[:, :, :1]
            x = block(x, kv, mask, None if cross is None else cross[i], cross_mask)
        if cache is not None:
            cache.length += input_ids.shape[1]
        return cast(Tensor, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token [..., V] from hidden states [..., D]."""
        if self.lm_head is None:
            raise ValueError("this text transformer was built without a language-model head")
        return cast(Tensor, self.lm_head(hidden, self.embed.word.weight))


def head_by_head(cross: Cross) -> Cross:
    """The same keys and values, at inference each head's in one piece: decoding reads them all at every step."""
    if torch.is_grad_enabled():
        return cross
    first, second = cross
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.contiguous(), second.contiguous()
    return cast(Cross, (head_by_head(cast(KV, first)), head_by_head(cast(KV, second))))


def self_mask(input_ids: Tensor, attention_mask: Tensor | None, past: int, causal: bool) -> Tensor | None:
    """Which of the past + T tokens each of the T new ones sees: bool, broadcastable to [R, H, T, past + T]."""
    length = input_ids.shape[1]
    mask = None
    if causal and length > 1:
        mask = torch.ones(length, past + length, dtype=torch.bool, device=input_ids.device).tril(past)
    if attention_mask is not None:
        real = attention_mask[:, None, None, :].bool()
        mask = real if mask is None else real & mask
    return mask
