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
RESULTS = Path("experiments/tiny/results.json")


@dataclass(frozen=True)
class Step:
    """A command, without the Python interpreter, and the path that exists when it is done."""

    name: str
    command: str
    output: Path

    @property
    def program(self) -> str:
        """The module that the command runs, of `blip` with the verb."""
        module, verb = shlex.split(self.command)[1:3]
        return f"blip {verb}" if module == "blip" else module


def stage(number: int, data: str) -> Step:
    run = RUNS / f"stage{number}"
    command = f"-m blip train --config experiments/tiny/stage{number}.yaml {data} -o {run}"
    return Step(f"stage{number}", command, run / "final" / "config.json")


def average(name: str, first: str, second: str, share: float) -> Step:
    command = f"-m experiments.tiny.average {RUNS}/{first} {RUNS}/{second} --share {share} -o {RUNS}/{name}"
    return Step(name, command, RUNS / name / "config.json")


def features(name: str, model: str, data: str, variants: int) -> Step:
    command = f"-m experiments.tiny.cache_features -m {RUNS}/{model} {data} --variants {variants} -o {RUNS}/{name}.npy"
    return Step(name, command, RUNS / f"{name}.json")


FLICKR = f"--data '{SHARED}/data/flickr8k-train-{{00000..00005}}.tar'"
ALL = (
    f"{FLICKR} --data '{SHARED}/data/coco-train-{{00000..00007}}.tar' "
    f"--data '{SHARED}/data/pascal-train-{{00000..00001}}.tar'"
)
PREPARE = (
    f"-m experiments.tiny.prepare --data {SHARED}/data --stem {SHARED}/weights/mobilenet_edgetpu_1.0_224.safetensors "
    f"-o {RUNS}"
)
CALIBRATION, GAUGE = RUNS / "calibration.json", RUNS / "gauge.json"
STEPS = (
    Step("prepare", PREPARE, RUNS / "init" / "config.json"),
    # Flickr8k alone
    stage(1, FLICKR),
    stage(2, FLICKR),
    features("features", "stage2/final", FLICKR, variants=4),
    stage(3, FLICKR),
    average("average3", "stage2/final", "stage3/final", 0.6),
    stage(4, FLICKR),
    average("average4", "average3", "stage4/final", 0.6),
    stage(5, FLICKR),
    average("average5", "average3", "stage5/final", 0.4),
    Step(
        "first",
        f"-m experiments.tiny.ship {RUNS}/average5 {RUNS}/first --encoder {RUNS}/average4",
        RUNS / "first" / "config.json",
    ),
    # all photos
    stage(6, ALL),
    features("features6", "stage6/final", ALL, variants=1),
    stage(7, ALL),
    stage(8, ALL),
    average("average8", "stage7/final", "stage8/final", 0.5),
    average("average9", "first", "average8", 0.65),
    Step(
        "calibration",
        f"-m experiments.tiny.calibrate -m {RUNS}/average9 --data {SHARED}/data -o {CALIBRATION}",
        CALIBRATION,
    ),
    Step(
        "gauge",
        f"-m experiments.tiny.gauge -m {RUNS}/average9 --data {SHARED}/data --calibration {CALIBRATION} -o {GAUGE}",
        GAUGE,
    ),
    Step(
        "ship",
        f"-m experiments.tiny.ship {RUNS}/average9 {RUNS}/shipped --calibration {CALIBRATION} --gauge {GAUGE}",
        RUNS / "shipped" / "config.json",
    ),
    Step(
        "export",
        f"-m blip export -m {RUNS}/shipped --to onnx -o {RUNS}/exported",
        RUNS / "exported" / "vision.onnx",
    ),
    Step(
        "measure",
        f"-m experiments.tiny.measure -m {RUNS}/exported --data {SHARED}/data -o {RUNS}/results.json",
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
    if args.list:
        return 0
    install(RUNS / "exported", ASSETS / "tiny")
    shutil.copyfile(RUNS / "results.json", RESULTS)
    print(f"{ASSETS / 'tiny'} is new; renewing what quotes it", flush=True)
    return subprocess.run([sys.executable, "-m", "experiments.quotes"], check=False).returncode


def install(source: Path, target: Path) -> None:
    """Copy the model's files over those of the package."""
    for path in source.iterdir():
        if path.suffix in (".json", ".onnx", ".safetensors", ".txt"):
            shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    sys.exit(main())
