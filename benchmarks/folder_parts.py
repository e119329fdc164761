"""One `blip caption FOLDER` in this process: processor time of its parts, and the model's own time on the same photos.

`benchmarks.folder` starts it with JSON: the arguments of `blip caption`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.stopwatch import Parts, stopwatch
from blip.cli import main
from blip.cli.options import Run
from blip.io import record_files, samples
from blip.torch_backend import TorchBackend
from blip_lite import image
from blip_lite.onnx_backend import OnnxBackend

LOAD, MODEL, REST = "load", "model", "rest"  # rest: list of inputs, records, threads, progress
PREPARATION: Parts = {"resize": [(image, "square")], "normalise": [(image, "normalize")]}
PARTS: Parts = {
    LOAD: [(Run, "load")],
    "read": [(image, "read_bytes")],
    "decode": [(samples, "read")],
    **PREPARATION,
    MODEL: [(TorchBackend, "caption"), (OnnxBackend, "caption")],
    "write": [(record_files._Journaled, "write"), (record_files._Journaled, "close")],
}


class Recorder:
    """The calls of the model in a run, and the time at which it was loaded."""

    def __init__(self) -> None:
        self.loaded = 0.0
        self.calls: list[Callable[[], Any]] = []

    def run(self, caption: Callable[[], None]) -> None:
        load, backends = Run.load, (TorchBackend, OnnxBackend)

        def timed(*args: Any, **kwargs: Any) -> Any:
            model = load(*args, **kwargs)
            self.loaded = time.perf_counter()
            return model

        def recorded(call: Callable[..., Any]) -> Callable[..., Any]:
            def record(*args: Any) -> Any:
                self.calls.append(lambda: call(*args))
                return call(*args)

            return record

        with ExitStack() as stack:
            stack.enter_context(patch.object(Run, "load", timed))
            for backend in backends:
                stack.enter_context(patch.object(backend, "caption", recorded(backend.caption)))
            caption()

    def alone(self) -> float:
        """Seconds by the clock of the same calls without preparation, while no photos are read."""
        with stopwatch(PREPARATION, REST) as seconds:
            start = time.perf_counter()
            for call in self.calls:
                call()
            wall = time.perf_counter() - start
        return wall - sum(seconds[part] for part in PREPARATION)


def run(arguments: Sequence[str], output: Path) -> dict[str, Any]:
    """Caption one photo to warm up, then all, then the same batches again by the model alone."""

    def caption(*flags: str) -> None:
        code = main(["caption", *arguments, "-o", str(output), "--overwrite", "--quiet", *flags])
        assert code == 0, f"exit code {code}"

    caption("--limit", "1")
    recorder = Recorder()
    with stopwatch(PARTS, REST) as seconds:
        recorder.run(caption)
        wall = time.perf_counter() - recorder.loaded
    photos = len(output.read_text("utf-8").splitlines())
    return {"parts": dict(seconds), "wall": wall, "alone": recorder.alone(), "photos": photos}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]), Path(sys.argv[2]))))
