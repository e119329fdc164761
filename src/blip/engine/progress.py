"""Progress of work on units: images per second, share of texts kept so far, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from blip.engine.units import Unit
from blip.engine.work import Counts

Show = Callable[[str], None]  # receives the progress in one line


class Progress:
    """Counts what a run has done, and describes it after each batch. Units may be in work at the same time.

    Speed and time left are measured from the first batch on: before it, processes start and models are loaded.
    """

    def __init__(self, total: int, todo: Sequence[Unit], show: Show | None = None) -> None:
        self.total, self.todo, self.show = total, len(todo), show
        self.counts, self.finished = Counts(), 0
        self.shares: dict[str, float] = {}  # of the units in work, by name
        self.problems: dict[str, str] = {}  # of the units that failed, by name
        self.first: tuple[float, int, float] | None = None  # time, images and units done after the first batch

    def update(self, unit: Unit, counts: Counts, share: float) -> None:
        """Add the counts of a batch, after which this share of the unit is done."""
        self.counts.add(counts)
        self.shares[unit.name] = share
        self.first = self.first or (time.monotonic(), self.counts.images, self._done())
        if self.show is not None:
            self.show(self.line())

    def finish(self, unit: Unit, problem: str = "") -> None:
        """Count a unit whose file is complete, or that failed because of `problem`."""
        self.shares.pop(unit.name, None)
        if problem:
            self.problems[unit.name] = problem
        self.finished += 1

    def line(self) -> str:
        """Return for example "3/10 shards, 812 images (41.3 img/s), kept 43% web 91% synthetic, 2 min left"."""
        now, images, done = time.monotonic(), self.counts.images, self._done()
        first_time, first_images, first_done = self.first or (now, images, done)
        seconds = max(now - first_time, 1e-9)
        speed = f" ({(images - first_images) / seconds:.1f} img/s)" if images > first_images else ""
        parts = [f"{self.total - self.todo + self.finished}/{self.total} shards", f"{images:,} images{speed}"]
        if self.counts.kept:
            parts.append(f"kept {self.counts.kept_shares()}")
        if done > first_done:
            parts.append(f"{duration(seconds / (done - first_done) * (self.todo - done))} left")
        return ", ".join(parts)

    def _done(self) -> float:
        """Return the number of units that this run has done, with shares of those in work."""
        return self.finished + sum(self.shares.values())


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
