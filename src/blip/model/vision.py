"""The image tower: a ViT as in timm 0.4.12 (what the original builds on), optionally over a convolutional stem."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blip.model.layers import MLP, Attention, DropPath
from blip.model.stem import ConvStem
from blip_lite.config import VisionConfig


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        """x [B, N, D] -> [B, N, D], or with `first_only` the first token's alone: [B, 1, D]."""
        y = self.norm1(x)
        kv = self.attn.keys_values(y)
        if first_only:
            x, y = x[:, :1], y[:, :1]
        x = x + self.drop_path(self.attn(y, kv))
        return x + cast(Tensor, self.drop_path(self.mlp(self.norm2(x))))


class VisionTransformer(nn.Module):
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
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.checkpoint_layers = 0  # the last so many blocks trade time for memory while training
        self._init_weights()

    def _init_weights(self) -> None:
        # original: trunc_normal(0.02), cut at +-2 absolute; the patch convolution keeps torch's default
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, pixel_values: Tensor, first_only: bool = False) -> Tensor:
        """pixel_values [B, 3, S, S], normalised -> image_embeds [B, N, D], the class token first (or alone).

        With class tokens N grows by their number (they have no grid place, so no position embedding).
        """
        size = self.config.image_size
        if pixel_values.shape[-2:] != (size, size) and not self.is_grid(pixel_values):
            raise ValueError(f"pixel_values {tuple(pixel_values.shape)}: this model takes [B, 3, {size}, {size}]")
        return self.encode_grid(*self.read_pixels(pixel_values), first_only)

    def is_grid(self, pixel_values: Tensor) -> bool:
        """Whether these are not pixels but what the stem has read of them: [B, C, s, s]."""
        return self.stem is not None and pixel_values.shape[1] == self.stem.channels

    def read_pixels(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input of the transformer: the pixels themselves, or the stem's grid [B, C, s, s] and class tokens [B, K, D].

        pixel_values may be the grid that a frozen stem has computed before; then only the class tokens are computed.
        """
        if self.stem is None:
            return pixel_values, None
        if self.is_grid(pixel_values):
            return pixel_values, self.stem.class_tokens(pixel_values)
        return cast(tuple[Tensor, Tensor | None], self.stem(pixel_values))

    def encode_grid(self, grid: Tensor, class_tokens: Tensor | None = None, first_only: bool = False) -> Tensor:
        """The transformer: the stem's grid [B, C, s, s] (or pixels) and class_tokens [B, K, D] -> [B, N, D].

        first_only: the class token's states alone, [B, 1, D]; the last block then leaves out the others.
        """
        x = self.patch_embed(grid).flatten(2).transpose(1, 2)  # [B, patches, D]
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        if class_tokens is not None:
            x = torch.cat([x, class_tokens.to(x.dtype)], dim=1)
        first_checkpointed = len(self.blocks) - self.checkpoint_layers
        for i, block in enumerate(self.blocks):
            again = self.training and i >= first_checkpointed  # computed again in the backward pass
            first = first_only and i == len(self.blocks) - 1
            x = checkpoint(block, x, first, use_reentrant=False) if again else block(x, first)
        out: Tensor = self.norm(x)
        return out


def resize_pos_embed(pos_embed: Tensor, num_tokens: int) -> Tensor:
    """Position embeddings [1, N, D] for another number of tokens; the class token's is kept.

    Bicubic on the square grid, align_corners off, no antialias. Source: models/vit.py interpolate_pos_embed.
    """
    if pos_embed.shape[1] == num_tokens:
        return pos_embed
    old, new = int((pos_embed.shape[1] - 1) ** 0.5), int((num_tokens - 1) ** 0.5)
    grid = pos_embed[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, D, old, old]
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
