"""Write a trained model as the bundled `tiny` or `tiny-vqa`: int8 weights, one scale per row.

    python experiments/tiny/ship.py runs/tiny/average5 runs/tiny/shipped --encoder runs/tiny/average4 \
        --calibration runs/tiny/calibration.json --gauge runs/tiny/gauge.json

--encoder: the run that trained the encoder's self-attention and the heads; the main run trained the decoder's.
--calibration: scale and bias of the match logit (`calibrate.py`). --gauge: how much of the calibrated match logit is
added to the cosine for ranking (`gauge.py`), which does not change match probabilities.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from torch import Tensor

from blip.checkpoint.files import write_folder
from blip.checkpoint.load import load
from blip.checkpoint.quantize import quantize
from blip_lite.text_files import load_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--encoder")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--gauge", type=Path)
    args = parser.parse_args()
    loaded = load(args.source)
    state = loaded.model.state_dict()
    if args.encoder is not None:
        state |= encoder_only(load(args.encoder).model.state_dict())
    if args.calibration is not None or args.gauge is not None:
        weight, bias = (difference(state[f"itm_head.{name}"]) for name in ("weight", "bias"))
        if args.calibration is not None:
            fitted = load_json(args.calibration)
            weight, bias = fitted["scale"] * weight, fitted["scale"] * bias + fitted["bias"]
        share = 1.0 if args.gauge is None else load_json(args.gauge)["share"]
        state["itm_head.weight"], state["itm_head.bias"] = rows(weight, share), rows(bias, share)
    write_folder(args.target, quantize(state), loaded.config, vocab=loaded.vocab)
    size = sum(path.stat().st_size for path in args.target.iterdir())
    print(f"{args.target}: {size / 1e6:.1f} MB")


def encoder_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that `tiny-4` trains."""
    trained = re.compile(r"encoder\.blocks\.\d+\.attn(_norm)?\.|(vision_proj|text_proj|itm_head)\.|temperature")
    return {name: tensor for name, tensor in state.items() if trained.match(name)}


def difference(head: Tensor) -> Tensor:
    """The part of the matching head's two rows that decides a match: second row minus first."""
    return head[1] - head[0]


def rows(difference: Tensor, share: float) -> Tensor:
    """The two rows with this difference, of which the second, used for ranking, is `share` of it."""
    return torch.stack([(share - 1) * difference, share * difference])


if __name__ == "__main__":
    main()
