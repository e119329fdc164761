"""MobileNetEdgeTPU 1.0 as the stem of the ViT: a small convolutional network pre-trained on ImageNet.

Howard et al., "MobileNetEdgeTPU", batch norms folded into the convolutions. Two outputs: the 7x7 grid with 1280
channels that the ViT reads, and the most probable classes of its ImageNet classifier, as tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.model.modules import Module

NUM_CLASSES = 1001  # class 0 is "background"
PHOTOS_PER_PASS = 4  # in inference on a CPU, whose cache more activations leave: batches of 32 gain a sixth
CLASS_VECTOR_WIDTH = 384  # width of the class vectors (sentence vectors of the class names)


@dataclass(frozen=True)
class ConvBlock:
    """Sizes of an inverted-residual block: expand, depthwise (both optional), project."""

    inputs: int
    hidden: int
    outputs: int
    expand: int = 1  # kernel size; 0 = none
    depthwise: int = 0
    stride: int = 1  # in the depthwise convolution if there is one, else in the expansion
    residual: bool = False


BLOCKS: tuple[ConvBlock, ...] = (
    ConvBlock(32, 32, 16, expand=0),
    ConvBlock(16, 128, 32, expand=3, stride=2),
    *[ConvBlock(32, 128, 32, expand=3, residual=True)] * 3,
    ConvBlock(32, 256, 48, expand=3, stride=2),
    *[ConvBlock(48, 192, 48, expand=3, residual=True)] * 3,
    ConvBlock(48, 384, 96, depthwise=3, stride=2),
    *[ConvBlock(96, 384, 96, depthwise=3, residual=True)] * 3,
    ConvBlock(96, 768, 96, depthwise=3),  # stride 1 and equal widths, but no residual
    *[ConvBlock(96, 384, 96, depthwise=3, residual=True)] * 3,
    ConvBlock(96, 768, 160, depthwise=5, stride=2),
    *[ConvBlock(160, 640, 160, depthwise=5, residual=True)] * 3,
    ConvBlock(160, 1280, 192, depthwise=3),
)


class SameConv(Module, nn.Conv2d):
    """Convolution with TensorFlow's SAME padding (the smaller half left and top)."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads = [total // 2, total - total // 2, *pads]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), 1, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


class StemBlock(Module):
    """Inverted-residual block."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.residual = block.residual
        width = block.hidden
        if block.expand:
            stride = 1 if block.depthwise else block.stride
            self.expand = SameConv(block.inputs, width, block.expand, stride)
        if block.depthwise:
            self.depthwise = SameConv(width, width, block.depthwise, block.stride, groups=width)
        self.project = SameConv(width, block.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for name in ("expand", "depthwise"):
            if hasattr(self, name):
                y = F.relu(getattr(self, name)(y), inplace=True)
        y = self.project(y)
        return x + y if self.residual else y


class ConvStem(nn.Module):
    """pixel_values [B, 3, S, S] in [-1, 1] -> grid [B, 1280, S/32, S/32] and class tokens [B, K, width] (or None).

    A class token is one of the K most probable ImageNet classes: the embedding of its name with its log-probability.
    It makes the classifier's 1,000 classes known to the text side even if there are few captions to train on.
    """

    channels = 1280

    def __init__(self, width: int, class_tokens: int) -> None:
        super().__init__()
        self.num_class_tokens = class_tokens
        self.conv = SameConv(3, 32, 3, 2)
        self.blocks = nn.ModuleList(StemBlock(block) for block in BLOCKS)
        self.head = SameConv(192, self.channels, 1)
        if class_tokens:
            self.classifier = nn.Linear(self.channels, NUM_CLASSES)
            self.class_vectors = nn.Parameter(torch.zeros(NUM_CLASSES, CLASS_VECTOR_WIDTH))
            self.class_embed = nn.Linear(CLASS_VECTOR_WIDTH + 1, width)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        on_cpu = pixel_values.device.type == "cpu" and not torch.is_grad_enabled()
        is_traced = torch.compiler.is_compiling()  # an export must not depend on the number of photos
        if on_cpu and not is_traced and len(pixel_values) > PHOTOS_PER_PASS:
            grid = torch.cat([self.grid(part) for part in torch.split(pixel_values, PHOTOS_PER_PASS)])
        else:
            grid = self.grid(pixel_values)
        return grid, self.class_tokens(grid)

    def grid(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [B, 3, S, S] -> grid [B, 1280, S/32, S/32]"""
        x = pixel_values.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.conv(x), inplace=True)
        for block in self.blocks:
            x = block(x)
        return F.relu(self.head(x))

    def class_tokens(self, grid: Tensor) -> Tensor | None:
        """The K most probable classes of a grid [B, 1280, s, s] as tokens [B, K, width]; None if K is 0."""
        if not self.num_class_tokens:
            return None
        logits = self.classifier(grid.mean(dim=(2, 3)))[:, 1:]  # without "background"
        log_probs, classes = logits.float().log_softmax(dim=1).topk(self.num_class_tokens, dim=1)
        return self.embed_classes(classes + 1, log_probs)

    def embed_classes(self, classes: Tensor, log_probs: Tensor) -> Tensor:
        """classes [B, K] and their log-probabilities [B, K] -> tokens [B, K, width]."""
        vectors = self.class_vectors[classes]
        tokens: Tensor = self.class_embed(torch.cat([vectors, log_probs[..., None].to(vectors.dtype) / 4], dim=-1))
        return tokens
