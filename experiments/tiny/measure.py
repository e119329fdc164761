"""Measures a model as its card reports it; one command prints all parts as JSON.

    python -m experiments.tiny.measure -m tiny --data ../shared/data -o experiments/tiny/results.json
    python -m experiments.tiny.measure -m runs/tiny/final --parts changed,objects --limit 100

| part        | what is measured                                                       | cost of `tiny`  |
| ----------- | ---------------------------------------------------------------------- | --------------- |
| captions    | CIDEr and BLEU-4 of flickr8k-dev (1,000 photos) and coco-dev (500)     | 1 core-minute   |
| retrieval   | recalls of coco-dev and flickr8k-dev by cosine, and re-ranked by ITM   | 22 core-minutes |
| changed     | true captions of coco-dev against changed ones: ITM and cosine by kind | 1 core-minute   |
| calibration | ECE and reliability of the match probability, scored with `changed`    | -               |
| objects     | coco-mini (363): captions that name a boxed object, by class; CIDEr    | 15 core-seconds |
| examples    | captions of the five example photos                                    | 1 core-second   |

Nearly all of the time of retrieval is re-ranking (1.2 ms per pair): --rerank 32 takes a quarter of it, --bf16 a third.
--limit takes the first photos of each set, for speed. Retrieval among fewer photos is easier: compare equal limits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from blip.apps.demo.uploads import EXAMPLES
from blip.checkpoint.load import Loaded, load
from blip.checkpoint.locate import locate
from blip.data.sources import SampleList, open_source
from blip.eval.caption import CaptionEval
from blip.eval.retrieval import RetrievalEval
from blip.eval.run import run
from blip.io.fetch import sha256_of
from blip.io.samples import ImageRef, Sample
from blip.model.mkldnn_linear import pack
from experiments.tiny.measure_matching import Scored, calibration, changed_accuracy, score_captions
from experiments.tiny.measure_objects import named_objects

FLICKR, COCO_DEV, COCO_MINI = "flickr8k-dev", "coco-dev", "coco-mini"


class Measurement:
    """The parts of a measurement, each a JSON value. rerank: pairs per query; bf16: retrieval in bfloat16."""

    def __init__(self, loaded: Loaded, data: Path, limit: int | None, rerank: int, bf16: bool) -> None:
        self.loaded, self.data, self.limit, self.rerank, self.bf16 = loaded, data, limit, rerank, bf16

    def source(self, name: str) -> SampleList:
        """The photos of a set that have captions."""
        samples = open_source(self.data / f"{name}-00000.tar").samples
        return SampleList([sample for sample in samples if sample.texts][: self.limit])

    def captions(self) -> dict[str, Any]:
        return {name: self._captions(self.source(name))[0] for name in (FLICKR, COCO_DEV)}

    def _captions(self, source: SampleList) -> tuple[dict[str, float], list[str]]:
        start = time.perf_counter()
        report = run(CaptionEval(), self.loaded.model, self.loaded.tokenizer, source)
        speed = len(report.rows) / (time.perf_counter() - start)
        return {"photos": len(report.rows), **report.metrics, "photos_per_second": speed}, [
            str(row["prediction"]) for row in report.rows
        ]

    def retrieval(self) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name in (COCO_DEV, FLICKR):
            source = self.source(name)
            for label, k in (("cosine", 0), (f"itm{self.rerank}", self.rerank)):
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16 and k > 0):
                    report = run(RetrievalEval(k=k), self.loaded.model, self.loaded.tokenizer, source)
                results.setdefault(name, {"photos": len(source)})[label] = report.metrics
        return results

    @cached_property
    def _scored(self) -> Scored:
        return score_captions(self.loaded, self.source(COCO_DEV))

    def changed(self) -> dict[str, Any]:
        return changed_accuracy(self._scored)

    def calibration(self) -> dict[str, Any]:
        return calibration(self._scored)

    def objects(self) -> dict[str, Any]:
        photos = self.source(COCO_MINI)
        metrics, captions = self._captions(photos)
        return {**metrics, **named_objects(photos, captions)}

    def examples(self) -> dict[str, Any]:
        samples = [Sample(key=Path(path).stem, images=(ImageRef(Path(path)),)) for path in EXAMPLES]
        report = run(CaptionEval(name="nocaps"), self.loaded.model, self.loaded.tokenizer, SampleList(samples))
        return {str(row["key"]): row["prediction"] for row in report.rows}


PARTS = ("captions", "retrieval", "changed", "calibration", "objects", "examples")


def weights_sum(model: str) -> str | None:
    """SHA-256 of the weights of a model in a folder or file; None for others."""
    path = locate(model).path
    file = path / "model.safetensors" if path is not None and path.is_dir() else path
    return sha256_of(file) if file is not None and file.is_file() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shards")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated parts (default: all)")
    parser.add_argument("--rerank", type=int, default=128, help="pairs per query that are re-ranked")
    parser.add_argument("--limit", type=int, help="photos of each set")
    parser.add_argument("--bf16", action="store_true", help="re-rank in bfloat16: a third of the time")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    parts = args.parts.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"--parts {args.parts}; must be of {', '.join(PARTS)}")
    loaded = load(args.model)
    pack(loaded.model)
    measurement = Measurement(loaded, args.data, args.limit, args.rerank, args.bf16)
    results: dict[str, Any] = {"model": args.model, "weights": weights_sum(args.model), "limit": args.limit}
    for name in parts:
        part: Callable[[], dict[str, Any]] = getattr(measurement, name)
        start = time.perf_counter()
        results[name] = part() | {"seconds": round(time.perf_counter() - start, 1)}
        print(json.dumps({name: results[name]}), flush=True)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
