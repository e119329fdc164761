"""Peak memory of each command, as a process of its own, with `tiny` and with ViT-B of random weights.

    python -m benchmarks memory [NAME...]

On the photos of examples/. Writes its section of RESULTS.md. Linux only: /proc is read while a process runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.capfilt_weights import write_random
from benchmarks.machine import commit
from blip.io.inputs import find_inputs

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTOS, TEXTS = 16, ("a cat on a sofa", "a cup of coffee")
INTERVAL = 0.02  # seconds between two readings of a process
SIZES = {"VmHWM": "peak_mb", "RssAnon": "private_mb"}


def watch(arguments: Sequence[str]) -> dict[str, float]:
    """Run `blip` in a process; return its peak memory, and the highest share of it that is not a mapped file."""
    highest = dict.fromkeys(SIZES.values(), 0.0)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-m", "blip", *arguments], stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            for name, size in _status(process.pid).items():
                highest[name] = max(highest[name], size)
            time.sleep(INTERVAL)
        errors.seek(0)
        assert process.returncode == 0, f"blip {' '.join(arguments)}: {errors.read().decode()[-500:]}"
    return highest


def _status(pid: int) -> dict[str, float]:
    """Memory of a process in MB; empty at its end."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    matches = {name: re.search(rf"{key}:\s*(\d+)", text) for key, name in SIZES.items()}
    return {name: int(match[1]) / 1e3 for name, match in matches.items() if match}


def write_data(folder: Path) -> dict[str, str]:
    """Write photos and a table with their captions; return the paths by name."""
    photos = folder / "photos"
    photos.mkdir()
    for i, sample in enumerate(islice(cycle(find_inputs([str(EXAMPLES)])), PHOTOS)):
        (photos / f"{i:02}.jpg").write_bytes(sample.image.read_bytes())
    rows = [{"image": str(file), "caption": list(TEXTS)} for file in sorted(photos.iterdir())]
    table = folder / "captions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"captions": str(table), "photos": str(photos), "output": str(folder / "output")}


def commands(data: Mapping[str, str], models: Mapping[str, str]) -> dict[str, list[str]]:
    """Arguments of `blip` by name; models: of the captioner, the matcher and the answerer."""
    photos, captions, output, torch = data["photos"], data["captions"], data["output"], ["--backend", "torch"]
    captioner, matcher, answerer = (["-m", models[name]] for name in ("caption", "match", "answer"))
    texts = [flag for text in TEXTS for flag in ("-t", text)]
    capfilt = ["--captioner", models["caption"], "--filter", models["match"], "-o", f"{output}/capfilt"]
    train = ["--init", models["caption"], "--val", "none", "--steps", "2", "--batch-size", "2", "-o", f"{output}/train"]
    index = ["--index", f"{output}/index"]
    return {
        "caption": ["caption", photos, *captioner, *torch, "-o", f"{output}/caption.jsonl"],
        "ask": ["ask", photos, "-q", "what is it?", *answerer, *torch, "-o", f"{output}/ask.jsonl"],
        "match": ["match", photos, *texts, *matcher, *torch, "-o", f"{output}/match.jsonl"],
        "embed": ["embed", photos, *matcher, *torch, "-o", f"{output}/embed.npz"],
        "index": ["index", photos, *matcher, *torch, *index],
        "search --rerank 16": ["search", TEXTS[0], "--rerank", "16", *torch, *index],
        "eval caption": ["eval", "caption", "--data", captions, *captioner],
        "eval retrieval --k 8": ["eval", "retrieval", "--data", captions, "--k", "8", *matcher],
        "capfilt run": ["capfilt", "run", captions, *capfilt],
        "train caption --batch-size 2": ["train", "caption", "--data", captions, *train],
    }


@contextmanager
def one_thread() -> Iterator[None]:
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "BLIP_OFFLINE": "1"}):
        yield


def measure(folder: Path, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Return peak memory of each command and model."""
    random = {
        "caption": write_random(folder / "caption", "caption"),
        "match": write_random(folder / "match", "retrieval"),
        "answer": write_random(folder / "answer", "vqa", 480),
    }
    tiny = {"caption": "tiny", "match": "tiny", "answer": "tiny-vqa"}
    rows = []
    for model, names in {"tiny": tiny, "ViT-B": random}.items():
        (folder / model).mkdir()
        for command, arguments in commands(write_data(folder / model), names).items():
            if not chosen or command.split(" --")[0] in chosen:
                with one_thread():
                    rows.append({"command": command, "model": model, **watch(arguments)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"commit": commit(), "rows": rows}


def section(values: dict[str, Any]) -> list[str]:
    """Lines of RESULTS.md."""
    if not values:
        return []
    models = list(dict.fromkeys(row["model"] for row in values["rows"]))
    cells = {(row["command"], row["model"]): f"{row['peak_mb']:.0f}, {row['private_mb']:.0f}" for row in values["rows"]}
    lines = [
        "## Memory",
        "",
        f"Peak of a process in MB, all of it and without mapped files, on {PHOTOS} photos of examples/, float32, one",
        "thread. Weights are mapped files, which the system can drop and read again; packed copies are not.",
        f"Command: `python -m benchmarks memory` (commit {values['commit']})",
        "",
        f"| command | {' | '.join(models)} |",
        "|---" * (len(models) + 1) + "|",
    ]
    for command in dict.fromkeys(row["command"] for row in values["rows"]):
        lines.append(f"| `blip {command}` | {' | '.join(cells.get((command, model), '') for model in models)} |")
    return lines


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Values of the section, from the arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="commands, such as caption; none = all")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), options.names)
