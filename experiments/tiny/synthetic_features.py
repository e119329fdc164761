"""Captions without images: the decoder learns to describe synthetic features of the stem for their object classes.

6,000 photos of dogs and sport cannot teach the names of cups or buses, although the stem tells 1,000 classes apart.
The stem's own classifier is inverted: for each class, gradient ascent from the mean features finds pooled features that
it assigns to the class. They are pasted as patches into shuffled feature maps of real photos.
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
class SyntheticData:
    """Captions, the ImageNet classes (1..1000) that each mentions, and pooled features of each class [1001, 1280]."""

    captions: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]
    prototypes: Tensor

    def draw(self, count: int, grid: Tensor, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """Return `count` random captions with a feature map each, made from the cells of `grid` [B, 1280, s, s]."""
        chosen = torch.randint(len(self.captions), (count,), generator=generator).tolist()
        grids = synthesize(grid, [self.classes[i] for i in chosen], self.prototypes, generator)
        return grids, [self.captions[i] for i in chosen]


def read_synthetic_data(folder: Path) -> SyntheticData:
    """Read `captions.jsonl` (lines of `{"caption": str, "classes": [int, ...]}`) and `prototypes.safetensors`."""
    captions, classes = [], []
    path = folder / "captions.jsonl"
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            captions.append(str(row["caption"]))
            classes.append(tuple(int(c) for c in row["classes"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadRecord(f"{path}:{number}", 'must be {"caption": str, "classes": [int, ...]}') from error
    return SyntheticData(tuple(captions), tuple(classes), load_file(folder / "prototypes.safetensors")["prototypes"])


def class_prototypes(stem: ConvStem, mean: Tensor, steps: int = 40, rate: float = 0.5) -> Tensor:
    """Pooled features [1001, 1280] that the classifier assigns to each class, by gradient ascent from `mean` [1280]."""
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


def synthesize(grid: Tensor, classes: list[tuple[int, ...]], prototypes: Tensor, generator: torch.Generator) -> Tensor:
    """Feature maps [M, 1280, s, s]: shuffled, dimmed cells of real photos `grid` [B, 1280, s, s], a patch per class."""
    count, side = len(classes), grid.shape[-1]
    cells = grid.permute(0, 2, 3, 1).flatten(0, 2)  # [B*s*s, 1280]
    drawn = torch.randint(len(cells), (count, side, side), generator=generator)
    out = 0.5 * cells[drawn.to(cells.device)]
    for i, mentioned in enumerate(classes):
        for c in mentioned:
            height, width = torch.randint(2, 6, (2,), generator=generator).clamp_(max=side).tolist()
            top = int(torch.randint(side - height + 1, (1,), generator=generator))
            left = int(torch.randint(side - width + 1, (1,), generator=generator))
            strength = 1.0 + 2.0 * torch.rand(height, width, 1, generator=generator)
            out[i, top : top + height, left : left + width] = (strength * prototypes[c]).to(out)
    return out.permute(0, 3, 1, 2)
