"""Fits scale and bias of the match logit, so that a match probability of 0.5 means as many true as false captions.

    python -m experiments.tiny.calibrate -m runs/tiny/average9 --data ../shared/data -o runs/tiny/calibration.json

Platt scaling (Guo et al. 2017) on flickr8k-dev: as many true captions as false ones, of which half are of other
photos and half are changed. The error is printed for coco-dev, too, which is not fitted on. `ship.py --calibration`
applies scale and bias.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blip.checkpoint.load import load
from blip.data.sources import open_source
from blip.model.mkldnn_linear import pack
from experiments.tiny.calibration import expected_calibration_error
from experiments.tiny.measure_matching import OTHER, TRUE, Scored, score_captions

FIT, CHECK = "flickr8k-dev", "coco-dev"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shards")
    parser.add_argument("--limit", type=int, default=500, help="photos of each set")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    loaded = load(args.model)
    pack(loaded.model)
    sets = {
        name: mixed(score_captions(loaded, open_source(args.data / f"{name}-00000.tar"), args.limit))
        for name in (FIT, CHECK)
    }
    scale, bias = fit(*sets[FIT])
    result: dict[str, object] = {"scale": scale, "bias": bias}
    for name, (logits, labels, weights) in sets.items():
        result[name] = {
            "ece_before": weighted_error(logits, labels, weights),
            "ece": weighted_error(scale * logits + bias, labels, weights),
        }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def mixed(scored: Scored) -> tuple[Tensor, Tensor, Tensor]:
    """Return match logits, labels and weights: half of the weight is of true captions, a quarter of each false kind."""
    kinds = [c.kind if c.kind in (TRUE, OTHER) else "changed" for c in scored.captions]
    share = {TRUE: 0.5, OTHER: 0.25, "changed": 0.25}
    weights = torch.tensor([share[kind] / kinds.count(kind) for kind in share for _ in range(kinds.count(kind))])
    order = [i for kind in share for i, other in enumerate(kinds) if other == kind]
    probabilities = torch.tensor(scored.itm, dtype=torch.float64)[order]
    labels = torch.tensor([kinds[i] == TRUE for i in order], dtype=torch.float64)
    return torch.logit(probabilities, eps=1e-7), labels, weights.double()


def fit(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[float, float]:
    """Return scale and bias of the logits with the least weighted cross entropy."""
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(
            parameters[0] * logits + parameters[1], labels, weights, reduction="sum"
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    scale, bias = parameters.tolist()
    return round(scale, 4), round(bias, 4)


def weighted_error(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Expected calibration error of weighted pairs: each is repeated in proportion to its weight."""
    copies = (weights / weights.min()).round().long()
    probabilities = logits.sigmoid().repeat_interleave(copies)
    return expected_calibration_error(probabilities.tolist(), labels.repeat_interleave(copies).bool().tolist())


if __name__ == "__main__":
    main()
