"""Makes the model that statements start from: `tiny` with two cross-attentions, merged by a layer from layer 2 up.

    python experiments/nlvr/prepare.py -o runs/nlvr/init

The merging layers start as the mean of both sides, which is what the layers below do, so that nothing of what the
encoder knows is lost at the start, and the head starts with what the matching head tells apart (original: both start
random, over a far larger pre-training).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from blip.checkpoint.files import write_folder
from blip.checkpoint.load import load, start_from

MERGE_FROM = 2
SPREAD = 0.05  # how much the two sides differ at the start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    loaded = load(args.model)
    config = replace(loaded.config, family="nlvr", text=replace(loaded.config.text, nlvr_merge_from=MERGE_FROM))
    model, adapted = start_from(loaded, config)
    state = model.state_dict()
    half = torch.eye(config.text.width) / 2
    for name in adapted.random:
        if name.endswith("cross_merge.weight"):
            state[name] = torch.cat([half, half], dim=1) + SPREAD * torch.randn_like(state[name]) / half.shape[0] ** 0.5
        elif name.endswith("cross_merge.bias"):
            state[name] = torch.zeros_like(state[name])
    itm = loaded.model.state_dict()["itm_head.weight"]
    direction = (itm[1] - itm[0]) / (itm[1] - itm[0]).norm()
    state["nlvr_head.fc1.weight"][:2] = torch.stack([direction, -direction])
    state["nlvr_head.fc2.weight"][:, :2] = torch.tensor([[-0.5, 0.5], [0.5, -0.5]])
    write_folder(args.output, state, config, vocab=loaded.vocab)


if __name__ == "__main__":
    main()
