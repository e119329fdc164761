"""Finds how much the matching head should say beside the cosine when captions and photos are ranked.

    python -m experiments.tiny.gauge -m runs/tiny/average9 --calibration runs/tiny/calibration.json \
        --data ../shared/data -o runs/tiny/gauge.json

A match's chance depends on the difference d of the head's two logits alone, ranking on the second logit plus the
cosine: training leaves the common part of the logits to chance. `ship.py --gauge` sets the second to a share of d,
which changes no chance. This prints the recalls for several shares, and writes the one with the best mean; 0 is the
cosine alone. With --calibration the shares are those of the calibrated difference.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch

from blip import inference
from blip.checkpoint.load import Loaded, load
from blip.data.sources import Source, open_source
from blip.eval.pairs import best_pairs, match_pairs, rank_by_score
from blip.eval.photos import Photos
from blip.eval.retrieval import KS
from blip.model.mkldnn_linear import pack
from blip_lite.text_files import load_json
from blip_lite.tokenizer import clean_caption

SETS = ("flickr8k-dev", "coco-dev")
SHARES = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shards")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("-k", type=int, default=64, help="pairs per query")
    parser.add_argument("--limit", type=int, default=250, help="photos of each set")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    loaded = load(args.model)
    pack(loaded.model)
    scale = 1.0 if args.calibration is None else load_json(args.calibration)["scale"]
    totals: dict[float, float] = defaultdict(float)
    for name in SETS:
        source = open_source(args.data / f"{name}-00000.tar")
        for share, metrics in recalls(loaded, source, min(args.limit, len(source)), args.k, scale).items():
            print(name, share, {key: round(value, 1) for key, value in metrics.items()}, flush=True)
            totals[share] += sum(metrics.values()) / len(metrics) / len(SETS)
    best = max(totals, key=lambda share: totals[share])
    args.output.write_text(json.dumps({"share": best, "mean_recall": totals}, indent=1) + "\n")
    print(f"best share {best}: mean recall {totals[best]:.2f}, cosine alone {totals[0.0]:.2f}")


@torch.inference_mode()
def recalls(loaded: Loaded, source: Source, photos: int, k: int, scale: float) -> dict[float, dict[str, float]]:
    """Return the recalls of the first photos of a set for each share, in percent."""
    model, tokenizer, numbers = loaded.model, loaded.tokenizer, range(photos)
    embeds = torch.cat([model.encode_image(pixels) for _, pixels in Photos().batches(source, model, numbers)])
    texts = [clean_caption(text, 30) for i in numbers for text in source[i].texts]
    owner = [i for i in numbers for _ in source[i].texts]
    pairs = best_pairs(model.project_image(embeds), inference.embed_text(model, tokenizer, texts), k)
    encoded = tokenizer.encode(texts, first="enc", max_length=35)
    logits = match_pairs(model, encoded, pairs, lambda places: embeds[list(places)])
    results = {}
    for share in SHARES:
        ways = rank_by_score(pairs, share * scale * (logits[:, 1] - logits[:, 0]) + pairs.cosines, owner)
        results[share] = {
            f"{name}_r{k}": 100 * float((way.ranks < k).float().mean())
            for name, way in zip(("txt", "img"), ways, strict=True)
            for k in KS
        }
    return results


if __name__ == "__main__":
    main()
