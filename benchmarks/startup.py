"""Five commands as whole processes, from the shell to the printed line: on torch and on the backend chosen by default.

    python -m benchmarks.startup --rounds 5

Outputs are compared first: equal texts, and numbers that differ by at most 1e-3. Backends alternate; a search re-ranks
the example photos.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

PHOTOS = Path(__file__).parents[1] / "examples"
PHOTO = str(PHOTOS / "chelsea.png")
COMMANDS: dict[str, list[str]] = {
    "caption": [PHOTO],
    "ask": [PHOTO, "-q", "what animal is this?"],
    "match": [PHOTO, "-t", "a cat", "-t", "a cup of coffee"],
    "embed": [PHOTO],
    "search": ["a cup of coffee", "--no-update", "--rerank", "128"],
}
BACKENDS = ("torch", "auto")
TOLERANCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command on each backend; default 5")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "BLIP_HOME": home}
        run("index", [str(PHOTOS)], environment)
        print(f"{'command':<10}{'torch':>9}{'auto':>9}{'ratio':>8}{'torch cpu':>12}{'auto cpu':>11}")
        for verb, arguments in COMMANDS.items():
            measure(verb, arguments, rounds, environment)


def measure(verb: str, arguments: Sequence[str], rounds: int, environment: Mapping[str, str]) -> None:
    """Print the median wall and processor seconds of a command on each backend."""
    commands = {backend: [*arguments, "--json", "--backend", backend] for backend in BACKENDS}
    outputs = {backend: run(verb, command, environment)[0] for backend, command in commands.items()}
    compare(outputs["torch"], outputs["auto"])
    times: dict[str, list[tuple[float, float]]] = {backend: [] for backend in BACKENDS}
    for _ in range(rounds):
        for backend, command in commands.items():
            times[backend].append(run(verb, command, environment)[1:])
    wall, cpu = ({backend: median(row[i] for row in times[backend]) for backend in BACKENDS} for i in (0, 1))
    ratio = wall["torch"] / wall["auto"]
    print(
        f"{verb:<10}{wall['torch']:>8.2f}s{wall['auto']:>8.2f}s{ratio:>7.1f}x{cpu['torch']:>11.2f}s{cpu['auto']:>10.2f}s",
        flush=True,
    )


def run(verb: str, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, float, float]:
    """Run `blip VERB ...`; return its standard output, wall seconds and processor seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "blip", verb, *arguments, "--quiet"]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return output, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(first: str, second: str) -> None:
    """Raise AssertionError unless two outputs are the same records."""
    rows = [[json.loads(line) for line in output.splitlines()] for output in (first, second)]
    assert len(rows[0]) == len(rows[1]) > 0, (first, second)
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys(), (ours, theirs)
        for name in ours:
            assert equal(ours[name], theirs[name]), (name, ours, theirs)


def equal(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal, numbers within TOLERANCE."""
    numbers = float | list
    if isinstance(first, numbers) and isinstance(second, numbers):
        return bool(np.allclose(first, second, rtol=0, atol=TOLERANCE))
    return bool(first == second)


if __name__ == "__main__":
    main()
