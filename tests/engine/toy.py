"""Work without models: slow enough to be killed, and failing on request."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from blip.engine.folder import OutputFolder
from blip.engine.progress import Progress
from blip.engine.units import Unit
from blip.engine.work import Counts, Tick
from blip_lite.errors import EnvironmentProblem, UsageError

BATCHES = 4


@dataclass
class Toy:
    """Writes the name of a unit. The file PROCESS of each process that has loaded it is created in `processes`."""

    processes: Path
    seconds: float = 0.05  # per batch
    batches: int = BATCHES

    def load(self, threads: int | None = None) -> None:
        if not self.processes.exists():
            raise UsageError("no folder of processes")
        (self.processes / str(os.getpid())).touch()

    def process(self, unit: Unit, path: Path, tick: Tick) -> None:
        for i in range(self.batches):
            time.sleep(self.seconds)
            tick(Counts(images=2), (i + 1) / self.batches)
        if unit.source == "bug.tar":
            raise ZeroDivisionError("a bug")
        if unit.source == "bad.tar":
            raise UsageError("bad.tar: not a tar")
        if unit.source == "full.tar":
            raise EnvironmentProblem("no space left")
        if unit.source == "crash.tar":
            os.kill(os.getpid(), signal.SIGKILL)
        path.write_text(f"{unit.name} {Path(unit.source).suffix}")

    def counts(self, path: Path) -> Counts:
        return Counts(images=2 * BATCHES)


def prepare(path: Path, names: list[str]) -> tuple[list[Unit], OutputFolder, Progress]:
    folder = OutputFolder(path, path / "files")
    folder.files.mkdir(parents=True)
    units = folder.assign([Unit(name=Path(name).stem, source=name, size=1) for name in names])
    return units, folder, Progress(len(units), units)


def contents(folder: OutputFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.files.glob("*.parquet")}
