"""One `blip capfilt run` in this process: processor time of its parts and peak memory, or its operations.

`benchmarks.capfilt_run` starts it with JSON: the flags, and whether to count operations.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.operations import Operations
from benchmarks.stopwatch import Parts, stopwatch

REST = "rest"


def timed_parts() -> Parts:
    """Parts of a run; `REST` is what remains, such as the index of the tars and progress."""
    import blip.capfilt.models as models
    from blip.capfilt import score
    from blip.capfilt.score_file import ScoreFile
    from blip.io.samples import ImageRef
    from blip.model.blip import BlipModel
    from blip_lite import image

    importlib.import_module("pyarrow.parquet")
    importlib.import_module("pyarrow").array([])  # imports pandas if it is installed
    return {
        "load": [(score.CaptionAndScore, "load"), (importlib.import_module("blip.capfilt.run"), "weights_sha256")],
        "read": [(ImageRef, "read_bytes")],
        "decode": [(image, "read")],
        "resize": [(image, "square")],
        "hashes": [(score.CaptionAndScore, "_decode")],
        "encode": [(models, "from_pixels"), (BlipModel, "encode_image")],
        "caption": [(models.CaptionFilter, "_captions")],
        "score": [(models.CaptionFilter, "_score")],
        "write": [(ScoreFile, "add"), (ScoreFile, "write")],
    }


def run(flags: Sequence[str], is_counted: bool) -> dict[str, Any]:
    """Run `blip capfilt run` in this process; return seconds of its parts and peak memory, or operations."""
    from blip.cli import main

    with Operations() if is_counted else nullcontext() as operations, stopwatch(timed_parts(), REST) as seconds:
        start = time.perf_counter()
        code = main(["capfilt", "run", *flags, "--quiet"])
        wall = time.perf_counter() - start
    assert code == 0, f"exit code {code}"
    if operations is not None:
        return {"operations": operations.total}
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    return {"parts": seconds, "wall": wall, "peak_mb": int(peak[1]) / 1000}


if __name__ == "__main__":
    print(json.dumps(run(*json.loads(sys.argv[1]))))
