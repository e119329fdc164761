"""Computes the features of a frozen stem for every training photo, in a few variants (`augment.cached_features`).

    python -m experiments.tiny.cache_features -m tiny --data '../shared/data/flickr8k-train-{00000..00005}.tar' \
        -o runs/tiny/features.npy

Variant 0 is the photo as at inference, the others are crops. Writes [N, K, C, s, s], float16, and the names of photos.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blip.checkpoint.load import load
from blip.data.sources import open_source
from blip.data.transforms import TrainTransform
from blip.io.image import prepare

BATCH = 32


@torch.inference_mode()
@torch.autocast("cpu", torch.bfloat16)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--data", action="append", required=True, help="shards; may be repeated")
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--min-scale", type=float, default=0.7)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    loaded, source = load(args.model), open_source(args.data)
    config, vision = loaded.config, loaded.model.vision
    assert vision.stem is not None, "only a model with a stem"
    normalised = {"size": config.vision.image_size, "mean": config.image_mean, "std": config.image_std}
    crop = TrainTransform(min_scale=args.min_scale, rand_augment=None, **normalised)
    side = config.vision.image_size // config.vision.patch_size
    shape = (len(source), args.variants, vision.stem.channels, side, side)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    written = np.lib.format.open_memmap(args.output, mode="w+", dtype=np.float16, shape=shape)

    def variants(number: int) -> Tensor:
        picture = source[number].image.read()
        crops = [crop(picture, args.variants * number + i) for i in range(1, args.variants)]
        return torch.stack([prepare([picture], **normalised)[0], *crops])

    for start in range(0, len(source), BATCH):
        numbers = range(start, min(start + BATCH, len(source)))
        grids, _ = vision.read_pixels(torch.cat([variants(i) for i in numbers]))
        written[start : start + len(numbers)] = grids.reshape(len(numbers), *shape[1:]).half().numpy()
        if start % (BATCH * 20) == 0:
            print(f"{start}/{len(source)}", flush=True)
    written.flush()
    names = [Path(source[i].key).stem for i in range(len(source))]
    args.output.with_suffix(".json").write_text(json.dumps(names))


if __name__ == "__main__":
    main()
