"""Locks of outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blip.io.lock import exclusive
from blip_lite.errors import EnvironmentProblem, UsageError

HOLD = """
import sys, time
from blip.io.lock import exclusive
with exclusive(sys.argv[1]):
    print(flush=True)
    time.sleep(900)
"""


def test_the_second_run_is_refused_and_nothing_remains(tmp_path: Path) -> None:
    target = tmp_path / "a.jsonl"
    with exclusive(target):
        with pytest.raises(UsageError, match=r"a\.jsonl: another run is writing to it"), exclusive(target):
            pass
        with exclusive(tmp_path / "b.jsonl"):
            pass
    assert list(tmp_path.iterdir()) == []
    with exclusive(target):
        pass


def test_a_link_to_the_target_has_the_same_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a.jsonl")
    with exclusive(tmp_path / "a.jsonl"), pytest.raises(UsageError), exclusive(tmp_path / "link"):
        pass


def test_a_folder_has_its_lock_inside(tmp_path: Path) -> None:
    with exclusive(tmp_path / "runs" / "mine", folder=True):
        assert [path.name for path in (tmp_path / "runs" / "mine").iterdir()] == [".lock"]
        with pytest.raises(UsageError), exclusive(tmp_path / "runs" / "mine", folder=True):
            pass
    assert list((tmp_path / "runs" / "mine").iterdir()) == []


@pytest.mark.integration
def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    target = tmp_path / "a.jsonl"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        with pytest.raises(UsageError), exclusive(target):
            pass
        process.kill()
    with exclusive(target):
        pass
    assert list(tmp_path.iterdir()) == []


def test_devices_are_not_locked() -> None:
    before = os.listdir("/dev")
    with exclusive(os.devnull), exclusive(os.devnull):
        assert os.listdir("/dev") == before


def test_long_names_have_their_own_locks(tmp_path: Path) -> None:
    with exclusive(tmp_path / ("n" * 250)), exclusive(tmp_path / ("n" * 251)):
        assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="cannot be written"), exclusive(tmp_path / "file" / "a.jsonl"):
        pass
