"""Vision transformer as in timm 0.4.12 (used by the original), optionally on a convolutional stem."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blip.model.layers import MLP, Attention, DropPath
from blip.model.modules import Blocks, Module
from blip.model.stem import ConvStem
from blip_lite.config import VisionConfig


class Block(Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        """x [B, N, D] -> [B, N, D]; with `first_only` of the first token only, [B, 1, D]."""
        y = self.norm1(x)
        kv = self.attn.keys_values(y)
        if first_only:
            x, y = x[:, :1], y[:, :1]
        x = x + self.drop_path(self.attn(y, kv))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(Module):
    """Images to token states (BLIP paper section 3.1; original: models/vit.py VisionTransformer).

    With `config.stem == "edgetpu"` the patch embedding reads the stem's grid instead of pixels, and the stem's
    `config.class_tokens` class tokens follow the patch tokens.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvStem(config.width, config.class_tokens) if config.stem == "edgetpu" else None
        channels, patch = (3, config.patch_size) if self.stem is None else (self.stem.channels, 1)
        self.patch_embed = nn.Conv2d(channels, config.width, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, config.width))
        rates = torch.linspace(0, config.drop_path, config.num_layers, device="cpu").tolist()
        self.blocks: Blocks[Block] = Blocks(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.checkpoint_layers = 0  # number of last blocks with activation checkpointing in training
        self._init_weights()

    def _init_weights(self) -> None:
        # original: trunc_normal(0.02), truncated at +-2; the patch convolution keeps torch's default
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, pixel_values: Tensor, first_only: bool = False) -> Tensor:
        """pixel_values [B, 3, S, S], normalised -> image_embeds [B, N, D], [CLS] first; with `first_only` only [CLS].

        The stem's class tokens come last in N; they have no position embedding. Raises ValueError for another size.
        """
        size = self.config.image_size
        if pixel_values.shape[-2:] != (size, size) and not self.is_grid(pixel_values):
            raise ValueError(f"pixel_values {tuple(pixel_values.shape)}: this model takes [B, 3, {size}, {size}]")
        return self.encode_grid(*self.read_pixels(pixel_values), first_only)

    def is_grid(self, pixel_values: Tensor) -> bool:
        """Whether this is the output grid of the stem, [B, C, s, s], instead of pixels."""
        return self.stem is not None and pixel_values.shape[1] == self.stem.channels

    def read_pixels(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input of the transformer: the pixels themselves, or the stem's grid [B, C, s, s] and class tokens [B, K, D].

        pixel_values may be the grid that a frozen stem has computed before; then only the class tokens are computed.
        """
        if self.stem is None:
            return pixel_values, None
        if self.is_grid(pixel_values):
            return pixel_values, self.stem.class_tokens(pixel_values)
        features: tuple[Tensor, Tensor | None] = self.stem(pixel_values)
        return features

    def encode_grid(self, grid: Tensor, class_tokens: Tensor | None = None, first_only: bool = False) -> Tensor:
        """The transformer: the stem's grid [B, C, s, s] (or pixels) and class_tokens [B, K, D] -> [B, N, D].

        first_only: return the state of [CLS] only, [B, 1, D], and compute only that in the last block.
        """
        x = self.patch_embed(grid).flatten(2).transpose(1, 2)  # [B, patches, D]
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        if class_tokens is not None:
            x = torch.cat([x, class_tokens.to(x.dtype)], dim=1)
        first_checkpointed = len(self.blocks) - self.checkpoint_layers
        for i, block in enumerate(self.blocks):
            recompute = self.training and i >= first_checkpointed
            first = first_only and i == len(self.blocks) - 1
            x = checkpoint(block, x, first, use_reentrant=False) if recompute else block(x, first)
        out: Tensor = self.norm(x)
        return out


def resize_pos_embed(pos_embed: Tensor, num_tokens: int) -> Tensor:
    """Position embeddings [1, N, D] resized to `num_tokens`; that of [CLS] is kept.

    Bicubic on the square grid, without align_corners and antialiasing. Source: models/vit.py interpolate_pos_embed.
    """
    if pos_embed.shape[1] == num_tokens:
        return pos_embed
    old, new = int((pos_embed.shape[1] - 1) ** 0.5), int((num_tokens - 1) ** 0.5)
    grid = pos_embed[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, D, old, old]
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
