"""The work that an engine does: a function from a unit to its output file, and the counts that it reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from blip.engine.units import Unit
from blip.io.atomic import atomic_path


@dataclass(kw_only=True)
class Counts:
    """Counts of a unit, of a part of it, or of many. `texts` and `kept` are by kind, `errors` by reason."""

    images: int = 0  # rows read, failed ones included
    errors: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)  # texts whose ITM is at least the default threshold

    def add(self, other: Counts) -> None:
        self.images += other.images
        for name in ("errors", "texts", "kept"):
            getattr(self, name).update(getattr(other, name))

    def kept_shares(self) -> str:
        """Return the share of texts kept by kind, for example "43% web 91% synthetic"."""
        return " ".join(f"{self.kept[kind] / count:.0%} {kind}" for kind, count in self.texts.items())


Tick = Callable[[Counts, float], None]  # called with the counts of each finished batch, and the unit's share done


class Work(Protocol):
    """Processing of units. Small and picklable until `load` is called, so that it can be sent to a process."""

    def load(self) -> None:
        """Open models. Called once per process, before `process`."""
        ...

    def process(self, unit: Unit, path: Path, tick: Tick) -> None:
        """Write the file of a unit at `path`; `tick` is called after each batch."""
        ...

    def counts(self, path: Path) -> Counts:
        """Return the counts of a finished file. No model is needed."""
        ...


def complete(work: Work, unit: Unit, target: Path, tick: Tick) -> None:
    """Write the file of a unit: `target` appears when it is complete, or not at all."""
    with atomic_path(target, durable=True) as path:
        work.process(unit, path, tick)
