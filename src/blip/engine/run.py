"""A run of work over a data set: list its units, do those that are missing, count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from blip.engine import local, ray_pool
from blip.engine.folder import OutputFolder, Settings
from blip.engine.progress import Progress, Show
from blip.engine.units import ROWS, Unit, list_units
from blip.engine.work import Counts, Work
from blip.io.columns import Columns
from blip_lite.checks import check_int
from blip_lite.errors import UsageError
from blip_lite.streams import Terminated

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Place where units are processed: this process, or processes on a Ray cluster.

    The other fields are for `ray`, see `ray_pool.run`. device: of the models.
    """

    name: EngineName = "local"
    actors: int = 1
    device: str = "auto"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(EngineName):
            raise UsageError(f"engine '{self.name}'; must be local or ray")
        check_int("actors", self.actors, 1)
        if self.name == "ray" and ":" in self.device:
            raise UsageError(f"device {self.device} with engine ray; must be auto, cpu or cuda: Ray assigns the GPUs")


@dataclass(frozen=True)
class Summary:
    """Result of a run: the counts of all its shards, those of earlier runs included, and the number of shards."""

    counts: Counts
    shards: int
    written: int  # by this run
    problems: dict[str, str]  # of the shards that this run could not write, by name

    @property
    def failed(self) -> int:
        """Number of images and rows without a result."""
        return sum(self.counts.errors.values())


def run(
    work: Work,
    names: Sequence[str],
    columns: Columns,
    folder: OutputFolder,
    settings: Settings,
    *,
    rows: int = ROWS,
    engine: Engine | None = None,
    show: Show | None = None,
) -> Summary:
    """Write the files of the units of `names` that are missing; a shard that fails does not stop the others.

    settings: everything besides the data that determines the files. rows: of a table or folder per unit. show:
    receives the progress after each batch. Raises `UsageError` for data that do not exist, for an output of other
    settings, and if another run writes to it; `KeyboardInterrupt` and `Terminated` say what is done.
    """
    engine = engine or Engine()
    listed = list_units(names, columns, rows)
    with folder.locked():
        folder.check_settings(settings)
        units = folder.assign(listed)
        todo = [unit for unit in units if not folder.is_done(unit)]
        progress = Progress(len(units), todo, show)
        try:
            _run_engine(engine, work, todo, folder, progress)
        except (KeyboardInterrupt, Terminated) as stop:
            done = sum(map(folder.is_done, units))
            raise type(stop)(f"{done} of {len(units)} shards are done, the same command continues") from stop
        counts = Counts()
        for unit in units:
            if folder.is_done(unit):
                counts.add(work.counts(folder.target(unit)))
    return Summary(counts, len(units), len(todo) - len(progress.problems), progress.problems)


def _run_engine(engine: Engine, work: Work, units: Sequence[Unit], folder: OutputFolder, progress: Progress) -> None:
    if engine.name == "local":
        local.run(work, units, folder, progress)
    else:
        gpu = engine.device == "auto" or engine.device.startswith("cuda")
        ray_pool.run(work, units, folder, progress, actors=engine.actors, gpu=gpu, address=engine.address)
