"""The steps of `make tiny`: their files exist, finished ones are skipped, a failure stops the rest."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.tiny import steps

ROOT = Path(__file__).parents[2]


def test_every_command_names_files_that_exist() -> None:
    for step in steps.STEPS:
        program, *arguments = shlex.split(step.command)
        module = arguments[0].replace(".", "/") + ".py" if program == "-m" else program
        assert module == "blip.py" or (ROOT / module).is_file(), step
        for argument in arguments:
            assert not argument.startswith("experiments/") or (ROOT / argument).is_file(), step
    assert len({step.name for step in steps.STEPS}) == len({step.output for step in steps.STEPS}) == len(steps.STEPS)


def test_finished_steps_are_skipped_and_a_failure_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, todo, broken, later = (tmp_path / name for name in ("done", "todo", "broken", "later"))
    done.touch()
    three = [
        steps.Step("first", "never run", done),
        steps.Step("second", "second", todo),
        steps.Step("third", "third", broken),
        steps.Step("fourth", "fourth", later),
    ]
    commands: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command[1])
        if command[1] == "second":
            todo.touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(steps, "STEPS", tuple(three))
    monkeypatch.setattr(steps.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["steps"])
    assert steps.main() == 1 and commands == ["second", "third"]
    assert "third: failed" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["steps", "--list"])
    assert steps.main() == 0 and capsys.readouterr().out.splitlines()[:2] == ["first: done", "second: done"]
