"""Measures the defaults of `blip train`: scores before and after fine-tuning on few photos.

    python -m experiments.finetune.measure --data ../shared/data -o runs/finetune

For captions and retrieval the user's photos are COCO photos with their captions, for VQA rooms of DAQUAR with their
questions; 250 photos of the same kind are kept apart. The other photos are 250 of Flickr8k dev, with captions, or with
questions made from these (`experiments.vqa`). Every row trains with the plain command. What is done is skipped, so the
command can be repeated; remove the output folder to measure another model. Writes `results.json` and prints the table.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blip.checkpoint.load import load
from blip.data.sources import Reading, open_source
from blip.eval.base import Evaluation
from blip.eval.caption import CaptionEval
from blip.eval.retrieval import RetrievalEval
from blip.eval.run import run
from blip.eval.vqa import VqaEval
from blip.io.samples import Sample
from experiments.vqa.make import closed_rows, open_rows
from experiments.vqa.photo import Photo
from experiments.vqa.rows import even, ten

HELD, SIZES, QUESTIONS = 250, (20, 100, 1000), 500
TASKS: dict[str, tuple[str, str, Evaluation]] = {
    "caption": ("tiny", "cider", CaptionEval()),
    "retrieval": ("tiny", "r_mean", RetrievalEval(k=16)),
    "vqa": ("tiny-vqa", "accuracy", VqaEval()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--set", nargs="*", default=(), help="KEY=VALUE of the config, to compare other values")
    args = parser.parse_args()
    tables = prepare(args.data, args.output / "data")
    path = args.output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for task in args.tasks:
        kind = "questions" if task == "vqa" else "captions"
        for size in (0, *args.sizes):
            name = f"{task}-{size}"
            if name not in results:
                row = {} if size == 0 else train(task, tables / f"{kind}-{size}.jsonl", args.output / name, args.set)
                row |= scores(task, TASKS[task][0] if size == 0 else str(args.output / name), tables, kind)
                results[name] = row
                path.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def prepare(data: Path, folder: Path) -> Path:
    """Write the photos and one table per training size, of held-out and of other photos."""
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "photos").mkdir(parents=True)
    dev = open_source([str(data / "flickr8k-dev-00000.tar")]).samples[:HELD]
    other = [{"image": photo(folder, sample), "captions": list(sample.texts)} for sample in dev]
    write(folder / "captions-other.jsonl", other)
    coco = shuffled(open_source([str(path) for path in sorted(data.glob("coco-train-*.tar"))]).samples)
    held = [sample for sample in coco if len(sample.texts) >= 5][:HELD]
    rest = [sample for sample in coco if sample not in held]
    for name, samples in [("held", held), *((str(size), rest[:size]) for size in SIZES)]:
        rows = [{"image": photo(folder, sample), "captions": list(sample.texts)} for sample in samples]
        write(folder / f"captions-{name}.jsonl", rows)
    rooms = shuffled(open_source([str(data / "daquar-qa-00000.tar")]).samples)
    held, rest = rooms[:HELD], rooms[HELD:]
    for name, samples in [("held", held), *((str(size), rest[:size]) for size in SIZES)]:
        questions = [row for sample in samples for row in room_questions(folder, sample)]
        write(folder / f"questions-{name}.jsonl", questions[:QUESTIONS] if name == "held" else questions)
    write(folder / "questions-other.jsonl", caption_questions(other)[:QUESTIONS])
    (folder / "done").touch()
    return folder


def photo(folder: Path, sample: Sample) -> str:
    """Write a photo; return its path for the tables."""
    name = sample.key.replace("/", "_").replace(".tar", "") + ".jpg"
    (folder / "photos" / name).write_bytes(sample.image.read_bytes())
    return f"photos/{name}"


def room_questions(folder: Path, sample: Sample) -> Iterator[dict[str, Any]]:
    for item in sample.fields["questions"]:
        yield {"image": photo(folder, sample), "question": item["question"], "answer": item["answers"]}


def caption_questions(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return questions made from captions, in random order."""
    rng, photos = random.Random(0), [Photo(row["image"], row["captions"]) for row in rows]
    questions = even([*closed_rows(photos, rng), *open_rows(photos, rng)], rng)
    return [{"image": row.key, "question": row.question, "answer": ten(row.answers)} for row in questions]


def shuffled(samples: Iterable[Sample]) -> list[Sample]:
    listed = list(samples)
    return [listed[i] for i in np.random.RandomState(0).permutation(len(listed))]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps({"key": str(i), **row}) + "\n" for i, row in enumerate(rows)))


def train(task: str, data: Path, folder: Path, sets: Iterable[str]) -> dict[str, Any]:
    """Train with the plain command; return what it reports."""
    start = time.monotonic()
    command = [sys.executable, "-m", "blip", "train", task, "--data", str(data), "-o", str(folder)]
    subprocess.run([*command, *(part for value in sets for part in ("--set", value))], check=True)
    finished = json.loads((folder / "finished.json").read_text())
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    drifts = {row["step"]: row["drift"] for row in rows if "drift" in row}
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "photos": len({json.loads(line)["image"] for line in data.read_text().splitlines()}),
        "steps": finished["step"],
        "best": finished["best_step"],
        "drift": drifts.get(finished["best_step"]),
        "seconds": round(time.monotonic() - start),
        "mb": round(size / 1e6),
    }


def scores(task: str, model: str, tables: Path, kind: str) -> dict[str, Any]:
    """Return the score on held-out photos of the user's kind and on other photos."""
    loaded, (_, metric, evaluation) = load(model), TASKS[task]
    reports = {
        name: run(
            evaluation, loaded.model, loaded.tokenizer, evaluation.open(str(tables / f"{kind}-{name}.jsonl"), Reading())
        )
        for name in ("held", "other")
    }
    return {name: report.metrics[metric] for name, report in reports.items()}


def table(results: dict[str, Any]) -> str:
    lines = ["| task, score | photos | like the user's | others | change | seconds |", "| --- " * 6 + "|"]
    for task, (_, metric, _) in TASKS.items():
        start = results.get(f"{task}-0")
        for name, row in results.items():
            if start is None or not name.startswith(f"{task}-") or row is start:
                continue
            like, other = (f"{start[key]:.3g} to {row[key]:.3g}" for key in ("held", "other"))
            changes = " / ".join(f"{100 * (row[key] / start[key] - 1):+.0f} %" for key in ("held", "other"))
            lines.append(f"| {task}, {metric} | {row['photos']} | {like} | {other} | {changes} | {row['seconds']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
