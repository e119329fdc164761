"""`blip capfilt run` as whole processes: where the time goes, batch sizes, memory.

    OMP_NUM_THREADS=1 python -m benchmarks.capfilt_run --data 'coco/*.tar'

Photos of the data (by default the examples, repeated), each with its first text, are written to tars first. Every run
is a process of its own; runs of different settings alternate. Results are added to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.capfilt_weights import write_random
from benchmarks.timing import limits
from blip.data.sources import open_source
from blip.data.task_rows import merged_by_image

EXAMPLES = Path(__file__).parents[1] / "examples"
START, MODEL = ("load", "rest"), ("encode", "caption", "score")


class Runs:
    """Runs on photos, each of which has its output folder below `folder`."""

    def __init__(self, folder: Path, data: str, photos: int) -> None:
        self.folder, self.data, self.photos = folder, data, photos
        self.numbers = count()
        folder.mkdir(exist_ok=True)

    def once(self, flags: Sequence[str], is_counted: bool = False) -> dict[str, Any]:
        """Run in a new process."""
        output = self.folder / f"{Path(self.data).parent.name}-{next(self.numbers)}"
        call = json.dumps([[self.data, "-o", str(output), "--threads", "1", *flags], is_counted])
        command = [sys.executable, "-m", "benchmarks.capfilt_parts", call]
        result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return result

    def rounds(self, settings: Mapping[str, Sequence[str]], rounds: int) -> list[dict[str, Any]]:
        """Return medians of each setting; settings alternate."""
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
        for _ in range(rounds):
            for name, flags in settings.items():
                results[name].append(self.once(flags))
        return [{"run": name, "rounds": rounds, **self._median(values)} for name, values in results.items()]

    def _median(self, values: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return processor milliseconds per photo and part, seconds of the start, photos per second, peak memory."""
        parts = {name: median(value["parts"][name] for value in values) for name in values[0]["parts"]}
        start = sum(parts.pop(name) for name in START)
        return {
            "photos": self.photos,
            "start_s": start,
            "ms": {name: 1e3 * seconds / self.photos for name, seconds in parts.items()},
            "per_processor_s": self.photos / sum(parts.values()),
            "per_wall_s": self.photos / median(value["wall"] for value in values),
            "peak_mb": max(value["peak_mb"] for value in values),
        }


def photos(specs: Sequence[str], number: int) -> list[tuple[bytes, str]]:
    """Return photos with a text each: the first ones of data, or the examples over and over."""
    if not specs:
        files = [path for path in sorted(EXAMPLES.rglob("*")) if path.suffix in (".jpg", ".png")]
        return [(path.read_bytes(), path.stem) for path in islice(cycle(files), number)]
    source = merged_by_image(open_source(specs, require_text=True))
    records = [source[i] for i in range(min(number, len(source)))]
    return [(record.image.read_bytes(), record.texts[0]) for record in records]


def write_tars(folder: Path, pairs: Sequence[tuple[bytes, str]], shards: int = 1) -> str:
    """Write tars that contain all the photos and texts each; return the pattern of their names."""
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number, (data, text) in enumerate(pairs):
                for suffix, content in (("jpg", data), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{number:05}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
    return str(folder / "*.tar")


def run_all(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows of RESULTS.md."""
    pairs, best = photos(options.data, options.photos), limits().float32
    values: dict[str, Any] = {"photos": options.title, "gflops": best / 1e9, "runs": [], "shards": []}

    def runs(name: str, number: int, shards: int = 1) -> Runs:
        return Runs(folder / "out", write_tars(folder / name, pairs[:number], shards), number * shards)

    def add(data: Runs, counted: Runs, name: str, flags: Sequence[str], sizes: Sequence[int], rounds: int) -> None:
        operations = counted.once(flags, True)["operations"] / counted.photos
        settings = {f"{name}, batch {size}": [*flags, "--batch-size", str(size)] for size in sizes}
        for row in data.rounds(settings, rounds):
            seconds = sum(row["ms"][part] for part in MODEL) / 1e3
            values["runs"].append({**row, "gflop": operations / 1e9, "share": operations / best / seconds})
            print(json.dumps(values["runs"][-1]), flush=True)

    for shards, number in ((1, 25), (1, 100), (8, 25)):
        data = runs(f"{shards}-{number}", number, shards)
        values["shards"].append({"shards": shards, "photos": data.photos, "peak_mb": data.once([])["peak_mb"]})
        print(json.dumps(values["shards"][-1]), flush=True)
    add(runs("many", len(pairs)), runs("counted", 16), "`tiny` as both", [], options.batch_sizes, options.rounds)
    if options.few:
        few, counted = runs("few", options.few), runs("counted-few", 2)
        flags = ["--captioner", write_random(folder / "captioner", "caption")]
        for seed, name in enumerate(("shared vision", "two towers")):
            judge = write_random(folder / f"filter-{seed}", "retrieval", seed=seed)
            add(few, counted, f"ViT-B 384, {name}", [*flags, "--filter", judge], [8], 1)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[], help="photos with texts; default the examples")
    parser.add_argument("--title", default="photos of examples/", help="of the data, in RESULTS.md")
    parser.add_argument("--photos", type=int, default=200, help="photos for `tiny`")
    parser.add_argument("--few", type=int, default=16, help="photos for ViT-B with random weights; 0 = without it")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of `tiny`; ViT-B has one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = run_all(Path(folder), options)
    values = report.read() | {"capfilt": measured}
    report.write(values)


if __name__ == "__main__":
    main()
