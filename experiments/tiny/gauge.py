"""Finds how much the matching head should say beside the cosine when captions and photos are ranked.

    python experiments/tiny/gauge.py -m runs/tiny/stage3/final --dev ../shared/data/flickr8k-dev-00000.tar

A match's chance depends on the difference d of the head's two logits alone, ranking on the second logit plus the
cosine: training leaves the common part of the logits to chance. `ship.py --itm-scale S` sets the second to S * d, which
changes no chance. This prints the recalls for several S; 0 is the cosine alone.
"""

from __future__ import annotations

import argparse

import torch

from blip import inference
from blip.checkpoint.load import load
from blip.data.sources import open_source
from blip.eval.pairs import best_pairs, match_pairs, rank_by_score
from blip.eval.photos import Photos
from blip.eval.retrieval import KS
from blip.model.mkldnn_linear import pack
from blip_lite.tokenizer import clean_caption

SCALES = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--dev", required=True)
    parser.add_argument("-k", type=int, default=128)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    loaded, dev = load(args.model), open_source(args.dev)
    model, tokenizer = loaded.model, loaded.tokenizer
    pack(model)
    numbers = range(min(args.limit or len(dev), len(dev)))
    embeds = torch.cat([model.encode_image(pixels) for _, pixels in Photos().batches(dev, model, numbers)])
    texts = [clean_caption(text, 30) for i in numbers for text in dev[i].texts]
    owner = [i for i in numbers for _ in dev[i].texts]
    pairs = best_pairs(model.project_image(embeds), inference.embed_text(model, tokenizer, texts), args.k)
    encoded = tokenizer.encode(texts, first="enc", max_length=35)
    logits = match_pairs(model, encoded, pairs, lambda places: embeds[list(places)])
    for scale in SCALES:
        ways = rank_by_score(pairs, scale * (logits[:, 1] - logits[:, 0]) + pairs.cosines, owner)
        metrics = {
            f"{name}_r{k}": 100 * float((way.ranks < k).float().mean())
            for name, way in zip(("txt", "img"), ways, strict=True)
            for k in KS
        }
        print(scale, {name: round(value, 1) for name, value in metrics.items()}, flush=True)


if __name__ == "__main__":
    main()
