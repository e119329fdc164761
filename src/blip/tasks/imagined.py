"""Captions without photos: a grid of what the stem would see is imagined, and the decoder learns to describe it.

6,000 photos of dogs and sport cannot teach what a cup or a bus is called, though the stem tells 1,000 such things
apart. So the stem's own classifier is turned round: for each class the pooled features are sought that it would call
so (gradient ascent from the mean photo), and pasted as patches into shuffled grids of real photos.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from blip.model.stem import ConvStem
from blip_lite.errors import BadRecord


@dataclass(frozen=True)
class Imagined:
    """Captions, the ImageNet classes (1..1000) that each speaks of, and each class's pooled features [1001, 1280]."""

    captions: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]
    prototypes: Tensor

    def draw(self, count: int, grid: Tensor, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """`count` random captions and a grid for each, made from the cells of `grid` [B, 1280, s, s]."""
        chosen = torch.randint(len(self.captions), (count,), generator=generator).tolist()
        grids = imagine(grid, [self.classes[i] for i in chosen], self.prototypes, generator)
        return grids, [self.captions[i] for i in chosen]


def read_imagined(folder: Path) -> Imagined:
    """`captions.jsonl` (lines of `{"caption": str, "classes": [int, ...]}`) and `prototypes.safetensors`."""
    captions, classes = [], []
    path = folder / "captions.jsonl"
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            captions.append(str(row["caption"]))
            classes.append(tuple(int(c) for c in row["classes"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadRecord(f"{path}:{number}", 'must be {"caption": str, "classes": [int, ...]}') from error
    return Imagined(tuple(captions), tuple(classes), load_file(folder / "prototypes.safetensors")["prototypes"])


def class_prototypes(stem: ConvStem, mean: Tensor, steps: int = 40, rate: float = 0.5) -> Tensor:
    """Pooled features [1001, 1280] that the stem's classifier gives to each class, started from `mean` [1280]."""
    features = mean.detach().expand(stem.classifier.out_features, -1).clone().requires_grad_(True)
    classes = torch.arange(stem.classifier.out_features)
    weight, bias = stem.classifier.weight.detach(), stem.classifier.bias.detach()
    for _ in range(steps):
        loss = F.cross_entropy(F.linear(features, weight, bias), classes, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, features)
        features = (
            (features - rate * gradient / gradient.norm(dim=1, keepdim=True)).relu().detach().requires_grad_(True)
        )
    return features.detach()


def imagine(grid: Tensor, classes: list[tuple[int, ...]], prototypes: Tensor, generator: torch.Generator) -> Tensor:
    """Grids [M, 1280, s, s]: cells of real photos `grid` [B, 1280, s, s], dimmed and shuffled, a patch per class."""
    count, side = len(classes), grid.shape[-1]
    cells = grid.permute(0, 2, 3, 1).flatten(0, 2)  # [B*s*s, 1280]
    drawn = torch.randint(len(cells), (count, side, side), generator=generator)
    out = 0.5 * cells[drawn.to(cells.device)]
    for i, spoken in enumerate(classes):
        for c in spoken:
            height, width = torch.randint(2, 6, (2,), generator=generator).clamp_(max=side).tolist()
            top = int(torch.randint(side - height + 1, (1,), generator=generator))
            left = int(torch.randint(side - width + 1, (1,), generator=generator))
            strength = 1.0 + 2.0 * torch.rand(height, width, 1, generator=generator)
            out[i, top : top + height, left : left + width] = (strength * prototypes[c]).to(out)
    return out.permute(0, 3, 1, 2)
