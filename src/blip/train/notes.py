"""Lines that a run prints about its data and its files."""

from __future__ import annotations

from pathlib import Path

from blip.checkpoint.tables import require_export
from blip.data.indexed_source import IndexedSource
from blip.data.sources import warn_bad_rows
from blip.data.split import FEWEST_PHOTOS, INDEXED, count_photos, is_share
from blip.tasks.base import Task
from blip_lite.errors import BadRecord, ConfigError


class SkippedRows:
    """Rows that could not be read when their turn came; each is listed once, in a warning."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def add(self, bad: BadRecord) -> None:
        if str(bad) not in self._seen:
            self._seen.add(str(bad))
            warn_bad_rows([bad])

    def summary(self) -> str:
        """Return a line with their number, "" without any."""
        count = len(self._seen)
        if count < 2:
            return "1 bad row left out; the next good one took its place" if count else ""
        return f"{count} bad rows left out; the next good ones took their place"


def held_out_note(task: Task) -> str:
    """Return a line about the held-out share of the data, "" if validation data were given or declined."""
    if not is_share(getattr(task, "val", None)):
        return ""
    setup = task.setup
    if isinstance(setup.training_source, IndexedSource):
        return f"none of {len(setup.training_source):,} rows held out for evaluation: {INDEXED}; --val FILE evaluates"
    training = count_photos(setup.training_source)
    if setup.held_out is None:
        few = "they share rows" if training >= FEWEST_PHOTOS else f"there are fewer than {FEWEST_PHOTOS}"
        return f"none of {_photos(training)} held out for evaluation, since {few}; --val FILE evaluates on others"
    held = count_photos(setup.held_out)
    return f"held out {held} of {_photos(training + held)} for evaluation; --val none trains on all"


def layout_note(task: Task) -> str:
    """Return a line if the trained model will have no Transformers counterpart, else ""."""
    try:
        require_export("hf", task.setup.config)
    except ConfigError as error:
        reason = str(error).partition(";")[0]
        return f"this run cannot become a Transformers folder ('blip export --to hf'): {reason}"
    return ""


def size_note(folder: Path, keeps_state: bool) -> str:
    """Return a line with the size of a finished run."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    kept = "with checkpoints to resume from" if keeps_state else "optimizer state dropped; --keep-state keeps it"
    return f"{folder}: {size / 1e6:.0f} MB ({kept})"


def _photos(count: int) -> str:
    return f"{count} photo{'s' * (count != 1)}"
