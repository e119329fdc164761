"""The work that an engine does: a function from a unit to its output file, and the counts that it reports."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from blip.engine.units import Unit
from blip.io.atomic import atomic_path
from blip_lite.errors import BlipError, EnvironmentProblem

COUNTERS = ("errors", "texts", "kept")


@dataclass(kw_only=True)
class Counts:
    """Counts of a unit, of a part of it, or of many. `texts` and `kept` are by kind, `errors` by reason."""

    images: int = 0  # rows read, failed ones included
    errors: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)  # scored texts that the default threshold keeps

    def add(self, other: Counts) -> None:
        self.images += other.images
        for name in COUNTERS:
            getattr(self, name).update(getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values, of which `from_dict` makes the same counts."""
        return {"images": self.images, **{name: dict(getattr(self, name)) for name in COUNTERS}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counts:
        counters = {name: Counter(values[name]) for name in COUNTERS}
        return cls(images=values["images"], **counters)

    def kept_shares(self) -> str:
        """Return the share of texts kept by kind, for example "43% web 91% synthetic"."""
        return " ".join(f"{count / self.texts[kind]:.0%} {kind}" for kind, count in self.kept.items())


Tick = Callable[[Counts, float], None]  # called with the counts of each finished batch, and the unit's share done


class Work(Protocol):
    """Processing of units. Small and picklable until `load` is called, so that it can be sent to a process."""

    def load(self, threads: int | None = None) -> None:
        """Open models that use this number of CPU threads (None: all). Called once per process, before `process`."""
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


def attempt(work: Work, unit: Unit, target: Path, tick: Tick) -> str:
    """Like `complete`, but return the reason if it fails because of this unit, else "".

    `EnvironmentProblem`, such as a full disk, concerns all units and is raised.
    """
    try:
        complete(work, unit, target, tick)
    except EnvironmentProblem:
        raise
    except BlipError as error:
        return str(error)
    except Exception as error:
        file, line, *_ = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(file).name}, line {line})"
    return ""
