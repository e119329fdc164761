"""Steps from the data to the shipped files of `tiny`: `make tiny`.

    python -m experiments.tiny.steps [--list] [--from STEP]

A step is skipped if its output exists. A step that was interrupted runs again; `blip train` resumes by itself.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("BLIP_SHARED", ROOT.parent / "shared"))
RUNS, ASSETS = Path("runs/tiny"), Path("lite/src/blip_lite/assets")


@dataclass(frozen=True)
class Step:
    """A command, without the Python interpreter, and the path that exists when it is done."""

    name: str
    command: str
    output: Path


def stage(number: int) -> Step:
    run = RUNS / f"stage{number}"
    command = f"-m blip train --config experiments/tiny/stage{number}.yaml -o {run}"
    return Step(f"stage{number}", command, run / "final" / "config.json")


def average(name: str, first: str, second: str, share: float) -> Step:
    command = f"experiments/tiny/average.py {RUNS}/{first} {RUNS}/{second} --share {share} -o {RUNS}/{name}"
    return Step(name, command, RUNS / name / "config.json")


PREPARE = (
    f"-m experiments.tiny.prepare --data {SHARED}/data --stem {SHARED}/weights/mobilenet_edgetpu_1.0_224.safetensors "
    f"--names {RUNS}/imagenet_synsets.txt {RUNS}/imagenet_synset_to_lemma.txt -o {RUNS}"
)
SHIP = f"experiments/tiny/ship.py {RUNS}/average5 {RUNS}/shipped --encoder {RUNS}/average4 --itm-scale 0.008"
STEPS = (
    Step("prepare", PREPARE, RUNS / "init" / "config.json"),
    stage(1),
    stage(2),
    stage(3),
    average("average3", "stage2/final", "stage3/final", 0.6),
    stage(4),
    average("average4", "average3", "stage4/final", 0.6),
    stage(5),
    average("average5", "average3", "stage5/final", 0.4),
    Step("ship", SHIP, RUNS / "shipped" / "config.json"),
    Step(
        "export",
        f"-m blip export -m {RUNS}/shipped --to onnx -o {RUNS}/exported",
        RUNS / "exported" / "vision.onnx",
    ),
    Step(
        "measure",
        f"experiments/tiny/measure.py -m {RUNS}/exported --dev {SHARED}/data/flickr8k-dev-00000.tar "
        f"--coco {SHARED}/data/coco-mini-00000.tar -o {RUNS}/results.json",
        RUNS / "results.json",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show the steps and which are done")
    parser.add_argument("--from", dest="start", choices=[step.name for step in STEPS], help="run this and later ones")
    args = parser.parse_args()
    names = [step.name for step in STEPS]
    again = names[names.index(args.start) :] if args.start else []
    for step in STEPS:
        done = step.output.exists() and step.name not in again
        if args.list or done:
            print(f"{step.name}: {'done' if done else step.command}")
            continue
        print(f"{step.name}: {step.command}", flush=True)
        result = subprocess.run([sys.executable, *shlex.split(step.command)], check=False)
        if result.returncode or not step.output.exists():
            print(f"{step.name}: failed with exit code {result.returncode}; run again to resume", file=sys.stderr)
            return result.returncode or 1
    if not args.list:
        install(RUNS / "exported", ASSETS / "tiny")
        print(f"{ASSETS / 'tiny'} is new; write its card (README.md) from {RUNS / 'results.json'}, then 'make renew'")
    return 0


def install(source: Path, target: Path) -> None:
    """Copy the model's files over those of the package; licence and card stay."""
    for path in source.iterdir():
        if path.suffix in (".json", ".onnx", ".safetensors", ".txt"):
            shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    sys.exit(main())
