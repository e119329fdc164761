"""`blip caption FOLDER` from start to end against the model's own time on the same photos.

    python -m benchmarks folder                       # the examples, over and over
    python -m benchmarks folder --data photos/ a.tar

Every run is a process of its own; runs of different settings alternate. Writes its section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.capfilt_weights import write_random
from benchmarks.folder_parts import LOAD, MODEL
from benchmarks.machine import commit
from benchmarks.timing import load
from blip.io.inputs import find_inputs

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = {
    "`tiny`, onnxruntime": [],
    "`tiny`, torch": ["--backend", "torch"],
    "`tiny`, torch, bf16": ["--backend", "torch", "--dtype", "bf16"],
}


def write_photos(folder: Path, data: Sequence[str], number: int) -> str:
    """Write photos to a folder: the first ones of data, or the examples over and over."""
    folder.mkdir()
    for i, sample in enumerate(islice(cycle(find_inputs(data or [str(EXAMPLES)])), number)):
        (folder / f"{i:05}.jpg").write_bytes(sample.image.read_bytes())
    return str(folder)


def start(flags: Sequence[str], photo: Path) -> tuple[float, float]:
    """Return processor seconds and seconds by the clock of a process that captions one photo."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "blip", "caption", str(photo), *flags], check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def once(photos: str, flags: Sequence[str], output: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.folder_parts", json.dumps([photos, *flags]), str(output)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def measure(
    folder: Path, photos: str, settings: Mapping[str, Sequence[str]], rounds: int, threads: int
) -> list[dict[str, Any]]:
    """Return a row per setting: medians of rounds, in which settings alternate."""
    flags = {name: [*values, "--threads", str(threads), "--quiet"] for name, values in settings.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name in settings:
            starts[name].append(start(flags[name], min(Path(photos).iterdir())))
            runs[name].append(once(photos, flags[name], folder / "captions.jsonl"))
    return [_row(name, runs[name], starts[name], threads) for name in settings]


def _row(
    name: str, runs: Sequence[dict[str, Any]], starts: Sequence[tuple[float, float]], threads: int
) -> dict[str, Any]:
    parts = {part: median(run["parts"][part] for run in runs) for part in runs[0]["parts"] if part != LOAD}
    photos = runs[0]["photos"]
    row = {
        "run": name,
        "threads": threads,
        "photos": photos,
        "rounds": len(runs),
        "start_cpu_s": median(cpu for cpu, _ in starts),
        "start_wall_s": median(wall for _, wall in starts),
        "ms": {part: 1e3 * seconds / photos for part, seconds in parts.items()},
        "cpu_ratio": median((sum(r["parts"].values()) - r["parts"][LOAD]) / r["parts"][MODEL] for r in runs),
        "wall_ratio": median(run["wall"] / run["alone"] for run in runs),
        "per_s": photos / median(run["wall"] for run in runs),
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def section(values: dict[str, Any]) -> list[str]:
    """Lines of RESULTS.md."""
    if not values:
        return []
    columns = list(values["rows"][0]["ms"])
    lines = [
        "## A folder of photos",
        "",
        f"`blip caption FOLDER` on {values['photos']}, from start to end, beam 3. *Start*: processor",
        "seconds, and by the clock, of a process that captions one photo. The rest is without it: milliseconds of",
        "processor time per photo and part; their sum by that of the model (*ratio*; aim 1.05); and time by the clock,",
        "by that of the model alone on the same batches (*wall*), which other work on the machine disturbs. 128 photos",
        "are four batches, of which the first is read before the model starts.",
        f"Command: `python -m benchmarks folder --data ...` (load {values['load']:.1f}; commit {values['commit']})",
        "",
        f"| run | threads | photos, rounds | start | {' | '.join(columns)} | ratio | wall | photos/s |",
        "|---" * (len(columns) + 7) + "|",
    ]
    for row in values["rows"]:
        single = row["threads"] == 1  # parts are those of one thread each
        cells = " | ".join(f"{row['ms'][column]:.2f}" if single else "" for column in columns)
        ratio = f"**{row['cpu_ratio']:.3f}**" if single else ""
        lines.append(
            f"| {row['run']} | {row['threads']} | {row['photos']}, {row['rounds']} | "
            f"{row['start_cpu_s']:.1f}, {row['start_wall_s']:.1f} | {cells} | {ratio} | "
            f"{row['wall_ratio']:.2f} | {row['per_s']:.1f} |"
        )
    return lines


def run_all(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    many = write_photos(folder / "many", options.data, options.photos)
    rows = [row for count in options.threads for row in measure(folder, many, TINY, options.rounds, count)]
    if options.few:
        few = write_photos(folder / "few", options.data, options.few)
        vit = {"ViT-B 384, random": ["-m", write_random(folder / "model", "caption")]}
        rows += [row for count in options.threads for row in measure(folder, few, vit, 1, count)]
    return {"photos": options.title, "load": load(), "commit": commit(), "rows": rows}


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Values of the section, from the arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks folder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=[], help="folders, photos or tars; default the examples")
    parser.add_argument("--title", default="the photos of examples/", help="of the data, in RESULTS.md")
    parser.add_argument("--photos", type=int, default=128, help="photos for `tiny`")
    parser.add_argument("--few", type=int, default=16, help="photos for ViT-B with random weights; 0 = without it")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of `tiny`; ViT-B has one")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of the model; default 1 and 2")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return run_all(Path(folder), options)
