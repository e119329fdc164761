"""Work in one process: failures of units, and of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip.engine import local
from blip_lite.errors import EnvironmentProblem
from tests.engine.toy import BATCHES, Toy, contents, prepare


def test_failing_units_do_not_stop_the_others(toy: Toy, tmp_path: Path) -> None:
    toy.seconds = 0
    units, folder, progress = prepare(tmp_path / "out", ["0.tar", "bug.tar", "bad.tar", "1.tar"])
    local.run(toy, units, folder, progress)
    assert sorted(contents(folder)) == ["0.parquet", "1.parquet"]
    assert (progress.finished, progress.counts.images) == (4, 8 * BATCHES)
    assert progress.problems.pop("bug").startswith("ZeroDivisionError: a bug (toy.py, line ")
    assert progress.problems == {"bad": "bad.tar: not a tar"}


def test_what_concerns_all_units_is_raised(toy: Toy, tmp_path: Path) -> None:
    units, folder, progress = prepare(tmp_path / "out", ["full.tar", "1.tar"])
    with pytest.raises(EnvironmentProblem, match="no space left"):
        local.run(toy, units, folder, progress)
    assert contents(folder) == {}
