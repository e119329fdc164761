"""Results of all runs: `results.json`, and tables next to the paper's numbers.

python -m experiments.capfilt.results runs/capfilt -o experiments/capfilt
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from blip.io.atomic import write_text
from experiments.capfilt.corrupt import KINDS, TRUE
from experiments.capfilt.data import DEV, Files
from experiments.capfilt.plot import plot
from experiments.capfilt.quality import filter_quality
from experiments.capfilt.texts import TextQuality

METRICS, RESULTS = "metrics.json", "results.json"
SCORES = ("nucleus", "beam", "shared-scores", "round-2")  # folders with scores of the web captions
COLUMNS = {  # titles of the metrics, and the number of decimals
    "cider": ("CIDEr", 3),
    "bleu4": ("BLEU-4", 3),
    "txt_r1": ("TR@1", 1),
    "txt_r10": ("TR@10", 1),
    "img_r1": ("IR@1", 1),
    "img_r10": ("IR@10", 1),
}
# The paper's tables 1, 2 and 4 (14M images, ViT-B): CIDEr, BLEU-4, TR@1 and IR@1 on COCO, fine-tuned
NOISY, BOTH = (127.8, 38.0, 78.4, 60.7), (129.7, 38.6, 80.6, 63.1)
TABLES: dict[str, dict[str, tuple[str, tuple[float, ...] | None]]] = {
    "Captioner and filter (paper: table 1)": {
        "noisy": ("noisy web captions", NOISY),
        "filter": ("filter", (128.2, 38.1, 79.1, 61.5)),
        "captioner": ("captioner", (128.9, 38.4, 79.7, 62.0)),
        "both": ("captioner and filter", BOTH),
        "clean": ("the same captions uncorrupted", None),
        "captioner-tiny": ("`tiny` as captioner", None),
        "human": ("human pairs alone", None),
    },
    "Synthetic captions (paper: table 2)": {
        "noisy": ("none", NOISY),
        "both-beam": ("beam search", (128.9, 38.4, 79.6, 61.9)),
        "both": ("nucleus", BOTH),
    },
    "Captioner and filter as one model (paper: table 4)": {
        "both-shared": ("shared", (129.0, 38.4, 79.8, 62.2)),
        "both": ("decoupled", BOTH),
    },
    "Rounds": {
        "noisy": ("none", None),
        "both": ("one", None),
        "both-second": ("two", None),
    },
    "Thresholds": {
        "captioner": ("0", None),
        "both-0.3": ("0.3", None),
        "both": ("0.5", None),
        "both-0.7": ("0.7", None),
        "both-50%": ("the best half", None),
    },
}


def collect(files: Files) -> dict[str, Any]:
    """Return the metrics of all finished runs and the quality of all filters, each by name and seed."""
    results: dict[str, Any] = {"settings": json.loads((files.folder / "settings.json").read_text())}
    results["runs"], results["filters"], results["texts"] = {}, {}, {}
    quality = TextQuality(files)
    for folder in sorted(files.folder.glob("seed-*")):
        seed = folder.name.removeprefix("seed-")
        for path in sorted(folder.glob(f"*/{METRICS}")):
            results["runs"].setdefault(path.parent.name, {})[seed] = json.loads(path.read_text())
        for name in SCORES:
            if (folder / name).exists():
                results["filters"].setdefault(name, {})[seed] = filter_quality(folder / name, 0.5)
                results["texts"].setdefault(name, {})[seed] = quality(folder / name, 0.5)
    costs = [json.loads(path.read_text()) for path in sorted((files.folder / "costs").glob("*.json"))]
    results["minutes"] = {kind: round(sum(cost[kind] for cost in costs) / 60, 1) for kind in ("cpu", "wall")}
    return results


def write(files: Files) -> None:
    write_text(files.folder / RESULTS, json.dumps(collect(files), indent=1) + "\n")


def tables(results: Mapping[str, Any]) -> str:
    """Return all tables as Markdown, without the rows and tables that have no run."""
    runs = results["runs"]
    parts = [
        part
        for title, rows in TABLES.items()
        if len(present := {name: row for name, row in rows.items() if name in runs}) > 1
        for part in (f"## {title}", *(table(name, present, runs) for name in DEV))
    ]
    if "noisy" in runs:
        parts += ["## Changes against noisy", changes(runs)]
    if results["filters"]:
        parts += ["## What the filter finds", filters(results["filters"])]
        parts += [
            "## Quality of the texts (CIDEr against human captions that no run has seen)",
            texts(results["texts"]),
        ]
    return "\n\n".join(parts) + "\n"


def table(dev: str, rows: Mapping[str, tuple[str, tuple[float, ...] | None]], runs: Mapping[str, Any]) -> str:
    """Return the table of a dev set; with the paper's numbers if the rows have any."""
    paper = any(numbers for _, numbers in rows.values())
    head = [dev, "seeds", *(title for title, _ in COLUMNS.values())]
    head += ["paper: CIDEr", "BLEU-4", "TR@1", "IR@1"] if paper else []
    lines = [head, ["---"] * len(head)]
    for name, (title, numbers) in rows.items():
        seeds = list(runs[name].values())
        cells = [spread([run[dev][key] for run in seeds], digits) for key, (_, digits) in COLUMNS.items()]
        extra = [f"{number:.1f}" for number in numbers] if numbers else ["-"] * 4
        lines.append([title, str(len(seeds)), *cells, *(extra if paper else [])])
    return markdown(lines)


def changes(runs: Mapping[str, Any]) -> str:
    """Return the differences to the noisy run of the same seed, mean and spread, next to the paper's."""
    keys = ("cider", "bleu4", "txt_r1", "img_r1")
    head = ["change against noisy", *(f"{dev} {COLUMNS[key][0]}" for dev in DEV for key in keys)]
    head += [f"paper {COLUMNS[key][0]}" for key in keys]
    lines = [head, ["---"] * len(head)]
    paper = {name: numbers for rows in TABLES.values() for name, (_, numbers) in rows.items() if numbers}
    for name, seeds in runs.items():
        common = [seed for seed in seeds if seed in runs["noisy"]]
        if name == "noisy" or not common:
            continue
        cells = [
            spread([seeds[s][dev][key] - runs["noisy"][s][dev][key] for s in common], COLUMNS[key][1], sign=True)
            for dev in DEV
            for key in keys
        ]
        known = zip(paper[name], NOISY, strict=True) if name in paper else ()
        lines.append([name, *cells, *([f"{a - b:+.1f}" for a, b in known] or ["-"] * 4)])
    return markdown(lines)


def filters(filters: Mapping[str, Any]) -> str:
    """Return the quality of each filter: share kept, precision and recall of true captions, and detection by kind."""
    head = ["scores", "kept web", "kept synthetic", "true: precision", "recall"]
    lines = [head, ["---"] * len(head)]
    detected = [["corruption", *(f"{name}: {key}" for name in filters for key in ("precision", "recall", "AUC"))]]
    detected.append(["---"] * len(detected[0]))
    for name, seeds in filters.items():
        runs = list(seeds.values())
        values = [[run["kept"]["web"] for run in runs], [run["kept"]["synthetic"] for run in runs]]
        values += [[run[TRUE][key] for run in runs] for key in ("precision", "recall")]
        lines.append([name, *(spread(value, 3) for value in values)])
    for kind in (*KINDS, "all"):
        cells = [
            spread([run[kind][key] for run in seeds.values()], 3)
            for seeds in filters.values()
            for key in ("precision", "recall", "auc_itm")
        ]
        detected.append([kind, *cells])
    return f"{markdown(lines)}\n\n{markdown(detected)}"


def texts(qualities: Mapping[str, Any]) -> str:
    """Return the CIDEr of the texts of each set of scores."""
    names = dict.fromkeys(name for seeds in qualities.values() for quality in seeds.values() for name in quality)
    lines = [["texts", *qualities], ["---"] * (1 + len(qualities))]
    for name in names:
        values = [[quality[name] for quality in seeds.values() if name in quality] for seeds in qualities.values()]
        lines.append([name, *(spread(value, 3) if value else "-" for value in values)])
    return markdown(lines)


def spread(values: Sequence[float], digits: int, *, sign: bool = False) -> str:
    """Return mean and standard deviation over the seeds; of one seed the value alone."""
    text = f"{mean(values):{'+' if sign else ''}.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):.{digits}f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of experiments.capfilt.run")
    parser.add_argument("-o", "--output", type=Path, help="folder for results.json, tables.md and plot.svg")
    args = parser.parse_args()
    results = collect(Files(args.folder))
    text = tables(results)
    if args.output:
        write_text(args.output / RESULTS, json.dumps(results, indent=1) + "\n")
        write_text(args.output / "tables.md", text)
        write_text(args.output / "plot.svg", plot(results["runs"]))
    print(text, end="")


if __name__ == "__main__":
    main()
