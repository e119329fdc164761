"""Measures a model as its card reports it: captions, retrieval, swapped captions on dev photos; once on COCO photos.

    python experiments/tiny/measure.py -m tiny --dev ../shared/data/flickr8k-dev-00000.tar \
        --coco ../shared/data/coco-mini-00000.tar -o experiments/tiny/results.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from blip.checkpoint.load import Loaded, load
from blip.data.sources import SampleList, Source, open_source
from blip.eval.caption import CaptionEval
from blip.eval.photos import Photos
from blip.eval.retrieval import RetrievalEval
from blip.eval.run import run
from blip.inference import match
from blip.metrics.caption import tokenize
from blip.model.mkldnn_linear import pack
from blip_lite.tokenizer import clean_caption

SYNONYMS = Path(__file__).parent / "synonyms.json"  # COCO class -> words that name it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--dev", required=True)
    parser.add_argument("--coco")
    parser.add_argument("--rerank", type=int, default=128)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--bf16", action="store_true", help="retrieval in bfloat16: a third of the time")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    loaded, dev = load(args.model), open_source(args.dev)
    pack(loaded.model)
    results: dict[str, object] = {
        "model": args.model,
        "dev": measure_dev(loaded, dev, args.rerank, args.limit, args.bf16),
    }
    if args.coco:
        print(json.dumps(results), flush=True)
        results["coco"] = measure_coco(loaded, open_source(args.coco))
    text = json.dumps(results, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


def measure_dev(loaded: Loaded, dev: Source, rerank: int, limit: int | None, bf16: bool) -> dict[str, float]:
    model, tokenizer = loaded.model, loaded.tokenizer
    start = time.perf_counter()
    captions = run(CaptionEval(), model, tokenizer, dev, limit=limit)
    seconds = time.perf_counter() - start
    metrics = {**captions.metrics, "captioned_photos_per_second": len(captions.rows) / seconds}
    plain = run(RetrievalEval(k=0), model, tokenizer, dev, limit=limit)
    metrics |= {f"itc_{k}": v for k, v in plain.metrics.items()}
    if rerank:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            reranked = run(RetrievalEval(k=rerank), model, tokenizer, dev, limit=limit)
        metrics |= {f"itm{rerank}_{k}": v for k, v in reranked.metrics.items()}
    return metrics | {"swapped_caption_auc": swapped_auc(loaded, dev, limit)}


@torch.inference_mode()
def swapped_auc(loaded: Loaded, dev: Source, limit: int | None) -> float:
    """Probability that a photo's first caption matches better than another photo's (derangement of seed 0)."""
    count = len(dev) if limit is None else min(limit, len(dev))
    texts = [clean_caption(dev[i].texts[0]) for i in range(count)]
    swapped = derangement(count)
    positives, negatives = [], []
    for indices, pixel_values in Photos().batches(dev, loaded.model, range(count)):
        embeds = loaded.model.encode_image(pixel_values)
        for chosen, scores in ((indices, positives), ([swapped[i] for i in indices], negatives)):
            result = match(loaded.model, loaded.tokenizer, embeds, [texts[i] for i in chosen], pairs=True)
            scores += np.asarray(result.itm).ravel().tolist()
    return auc(positives, negatives)


def derangement(count: int) -> list[int]:
    """A permutation without fixed points, the same every time."""
    rng = np.random.RandomState(0)
    while True:
        order = rng.permutation(count)
        if not (order == np.arange(count)).any():
            return [int(i) for i in order]


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Area under the ROC curve: share of pairs in the right order, ties half."""
    high, low = np.asarray(positives)[:, None], np.asarray(negatives)[None, :]
    return float((high > low).mean() + 0.5 * (high == low).mean())


def measure_coco(loaded: Loaded, coco: SampleList) -> dict[str, float]:
    """Captions of COCO photos (none was trained on), and how many name an object that is boxed there."""
    photos = SampleList([r for r in coco.samples if r.texts])
    report = run(CaptionEval(), loaded.model, loaded.tokenizer, photos)
    synonyms = json.loads(SYNONYMS.read_text())
    named = []
    for record, row in zip(photos.samples, report.rows, strict=True):
        boxes = record.fields.get("boxes")
        if boxes:
            words = " " + " ".join(tokenize(row["prediction"])) + " "
            classes = {box[4] for box in boxes}
            named.append(any(f" {word} " in words for c in classes for word in synonyms.get(c, [c])))
    return {
        **report.metrics,
        "photos": len(photos),
        "boxed_photos": len(named),
        "names_a_boxed_object": float(np.mean(named)),
    }


if __name__ == "__main__":
    main()
