"""Measures a VQA model as its card reports it: with the photos, without them, and against guesses; prints JSON.

    python -m experiments.vqa.measure -m tiny-vqa --questions runs/vqa \
        --learn runs/vqa/train.jsonl ../shared/data/vqa-v2-questions.jsonl.gz -o experiments/vqa/results.json

Accuracies in percent by VQA's rule, with 95 % intervals, of each set and kind of question. `grey`: the same model is
shown a grey picture instead of each photo. `question`: the answer given most often in --learn to the same text, else to
its first words (`blind.py`). `majority`: the most frequent answer of the kind in the set itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from blip.checkpoint.load import Loaded, load
from blip.data.sources import SampleList, open_source
from blip.eval.base import Measure, Row
from blip.eval.run import run
from blip.eval.statistics import interval
from blip.eval.vqa import VqaEval
from blip.io.samples import ImageRef
from experiments.vqa.blind import Guesses

SETS = ("coco-mini", "coco-qa", "daquar-dev", "coco-dev", "flickr-dev")
DRAWS = 1000  # of the bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--questions", type=Path, required=True, help="folder that make.py wrote")
    parser.add_argument("--learn", nargs="+", type=Path, required=True, help="questions that `question` guesses from")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--limit", type=int, help="questions of each set")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    loaded, guesses = load(args.model), Guesses(args.learn)
    with tempfile.TemporaryDirectory() as folder:
        grey = Path(folder) / "grey.png"
        Image.new("RGB", (224, 224), (128, 128, 128)).save(grey)
        results: dict[str, Any] = {"model": args.model}
        for name in args.sets:
            source = SampleList(open_source(args.questions / f"{name}.jsonl").samples[: args.limit])
            results[name] = measured(loaded, source, ImageRef(grey), guesses)
            print(f"{name}: {json.dumps(results[name]['all'])}", flush=True)
    text = json.dumps(results, indent=1) + "\n"
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def measured(loaded: Loaded, source: SampleList, grey: ImageRef, guesses: Guesses) -> dict[str, Any]:
    """Accuracies of a set by kind of question, with the number of questions, and answers per second."""
    start = time.perf_counter()
    report = run(VqaEval(), loaded.model, loaded.tokenizer, source)
    seconds = time.perf_counter() - start
    unseen = SampleList([replace(sample, images=(grey,)) for sample in source.samples])
    blind = run(VqaEval(), loaded.model, loaded.tokenizer, unseen)
    rows = [dict(row, kind=row.get("kind", "")) for row in report.rows]
    results: dict[str, Any] = {"all": {}, **{kind: {} for kind in sorted({str(row["kind"]) for row in rows})}}
    for kind, result in results.items():
        name = "accuracy" if kind == "all" else f"accuracy_{kind}"
        metric, chosen = report.measures[name], [row for row in rows if kind in ("all", row["kind"])]
        low, high = interval(metric, DRAWS) or (float("nan"), float("nan"))
        result |= {
            "questions": len(chosen),
            "accuracy": percent(metric.value),
            "interval": [percent(low), percent(high)],
            "grey": percent(blind.measures[name].value),
            "question": percent(guesses.accuracy(chosen)),
            "majority": percent(majority(report.measures, rows, kind)),
        }
    results["all"]["answers_per_second"] = round(len(rows) / seconds, 1)
    return results


def majority(measures: Mapping[str, Measure], rows: Sequence[Row], kind: str) -> float:
    """Accuracy of the most frequent answer of each kind; over all questions the mean of the kinds."""
    kinds = {str(row["kind"]) for row in rows} if kind == "all" else {kind}
    counts = {name: sum(row["kind"] == name for row in rows) for name in kinds}
    chances = {name: measures[f"accuracy_{name}"].chance or 0.0 for name in kinds}
    return sum(counts[name] * chances[name] for name in kinds) / sum(counts.values())


def percent(share: float) -> float:
    return round(100 * share, 1)


if __name__ == "__main__":
    main()
