"""Work on the units of an output folder in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from blip.engine.folder import OutputFolder
from blip.engine.progress import Progress
from blip.engine.units import Unit
from blip.engine.work import Work, attempt


def run(work: Work, units: Sequence[Unit], folder: OutputFolder, progress: Progress) -> None:
    """Write the files of unfinished units. A failing one does not stop the others. No units: no models are loaded."""
    for number, unit in enumerate(units):
        if not number:
            work.load()
        problem = attempt(work, unit, folder.target(unit), partial(progress.update, unit))
        progress.finish(unit, problem)
