"""Write a trained model as the bundled `tiny`: int8 weights, one scale per row.

    python experiments/tiny/ship.py runs/tiny/stage5/final lite/src/blip_lite/assets/tiny \
        --encoder runs/tiny/stage4/final --itm-scale 0.02

--encoder: the run that trained the encoder's self-attention and the heads; the main run trained the decoder's.
--itm-scale: see `gauge.py`; match probabilities do not change.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--encoder")
    parser.add_argument("--itm-scale", type=float)
    args = parser.parse_args()
    loaded = load(args.source)
    state = loaded.model.state_dict()
    if args.encoder is not None:
        state |= encoder_only(load(args.encoder).model.state_dict())
    if args.itm_scale is not None:
        for name in ("itm_head.weight", "itm_head.bias"):
            state[name] = scaled(state[name], args.itm_scale)
    write_folder(args.target, quantize(state), loaded.config, vocab=loaded.vocab)
    size = sum(path.stat().st_size for path in args.target.iterdir())
    print(f"{args.target}: {size / 1e6:.1f} MB")


def encoder_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that `tiny-4` trains."""
    trained = re.compile(r"encoder\.blocks\.\d+\.attn(_norm)?\.|(vision_proj|text_proj|itm_head)\.|temperature")
    return {name: tensor for name, tensor in state.items() if trained.match(name)}


def scaled(rows: Tensor, scale: float) -> Tensor:
    """The matching head's two rows with the same difference d, the second is scale * d."""
    difference = rows[1] - rows[0]
    return torch.stack([(scale - 1) * difference, scale * difference])


if __name__ == "__main__":
    main()
