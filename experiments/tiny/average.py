"""Averages the weights of two stages: better than either, for nothing.

    python experiments/tiny/average.py runs/tiny/stage2/final runs/tiny/stage3/final --share 0.6 -o runs/tiny/average

--share: of the second.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from blip.checkpoint.files import write_folder
from blip.checkpoint.load import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    first, second = load(args.first), load(args.second)
    here = first.model.state_dict()  # of another family it may have more
    state = {name: torch.lerp(here[name], tensor, args.share) for name, tensor in second.model.state_dict().items()}
    write_folder(args.output, state, second.config, vocab=second.vocab)


if __name__ == "__main__":
    main()
