"""One run of the benchmark: device, time limits, and records that are written as they come."""

from __future__ import annotations

import gc
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Record = dict[str, Any]


class OutOfTime(BaseException):
    """A section has used its time. Handlers of errors do not see it."""


@dataclass
class Session:
    """small: networks of a few layers, for runs without a GPU. records: everything written so far."""

    device: torch.device
    small: bool
    minutes: float
    files: list[Path]
    started: float = field(default_factory=time.monotonic)
    records: list[Record] = field(default_factory=list)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the rates."""
        return torch.bfloat16 if self.is_cuda else torch.float32

    def remaining(self, share: float = 1.0) -> float:
        """Seconds until this share of the run's time is used."""
        return share * 60 * self.minutes - (time.monotonic() - self.started)

    def write(self, section: str, **values: Any) -> None:
        record = {"section": section, "at": round(time.monotonic() - self.started, 1), **values}
        self.records.append(record)
        line = json.dumps(record)
        print(line, flush=True)
        for path in self.files:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def run(self, section: str, work: Callable[[], None], until: float, seconds: float) -> None:
        """Run a section for at most `seconds`, and until the share `until` of all time is used; record its failure."""
        limit = min(seconds, self.remaining(until))
        if limit < min(5.0, seconds / 4):
            self.write(section, ok=None, note="no time left")
            return
        start = time.monotonic()
        try:
            with limited(limit):
                work()
        except OutOfTime:
            self.write(section, ok=None, note=f"stopped after {limit:.0f} s")
        except Exception as error:  # the other sections run nevertheless
            where = traceback.extract_tb(error.__traceback__)[-1]
            note = f"{type(error).__name__}: {error}"[:300]
            self.write(section, ok=False, note=note, where=f"{Path(where.filename).name}:{where.lineno}")
            traceback.print_exc()
        finally:
            self.release()
        self.write(section, finished=round(time.monotonic() - start, 1))

    def release(self) -> None:
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def failures(self) -> list[Record]:
        return [record for record in self.records if record.get("ok") is False]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after `seconds`."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
