"""Lines of progress: speed and time left without the time in which models are loaded."""

from __future__ import annotations

from collections import Counter

import pytest

from blip.engine import progress
from blip.engine.progress import Progress, duration
from blip.engine.units import Unit
from blip.engine.work import Counts


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which the test sets."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def counts(images: int, kept: int) -> Counts:
    return Counts(images=images, texts=Counter(web=2 * images, synthetic=images), kept=Counter(web=kept, synthetic=0))


def test_a_line_has_speed_share_kept_and_time_left(now: list[float]) -> None:
    units = [Unit(name=name, source=f"{name}.tar", size=1) for name in "abcd"]
    lines: list[str] = []
    state = Progress(6, units, lines.append)  # two units were done before
    now[0] += 60  # until the models are loaded
    state.update(units[0], counts(10, 20), 0.25)
    now[0] += 5
    state.update(units[1], counts(10, 10), 0.5)
    now[0] += 5
    state.update(units[0], counts(30, 15), 1.0)
    state.finish(units[0])
    now[0] += 10
    state.update(units[1], counts(1950, 1000), 1.0)
    state.finish(units[1], "a reason")
    assert lines == [
        "2/6 shards, 10 images, kept 100% web 0% synthetic",
        "2/6 shards, 20 images (2.0 img/s), kept 75% web 0% synthetic, 32 s left",
        "2/6 shards, 50 images (4.0 img/s), kept 45% web 0% synthetic, 20 s left",
        "3/6 shards, 2,000 images (99.5 img/s), kept 26% web 0% synthetic, 23 s left",
    ]
    assert state.line().startswith("4/6 shards, ") and state.problems == {"b": "a reason"}


def test_durations_have_two_units() -> None:
    assert [duration(s) for s in (0, 59.6, 3600 * 5 + 125, 3600 * 49)] == ["0 s", "1 min", "5 h 2 min", "2 d 1 h"]
