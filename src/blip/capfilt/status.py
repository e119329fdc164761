"""State of an output folder: which shards are done, and what they contain."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from blip.capfilt.run import output_folder
from blip.capfilt.score_file import read_counts
from blip.engine.units import Unit
from blip.engine.work import Counts
from blip_lite.errors import UsageError


@dataclass(frozen=True)
class Status:
    """Number of finished shards with their counts, and the missing ones."""

    done: int
    missing: list[Unit]
    counts: Counts


def status(output: str | os.PathLike[str]) -> Status:
    """Return the state of a folder of `run`, which may be in work. Raises `UsageError` for any other folder."""
    folder = output_folder(Path(output))
    units = folder.units()
    if not units:
        raise UsageError(f"{folder.path}: no score files; 'blip capfilt run' writes them")
    done = [unit for unit in units if folder.is_done(unit)]
    counts = Counts()
    for unit in done:
        counts.add(read_counts(folder.target(unit)))
    return Status(len(done), [unit for unit in units if not folder.is_done(unit)], counts)
