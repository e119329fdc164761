"""The steps of `make tiny`: their files exist, finished ones are skipped, a failure stops the rest."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.tiny import steps

ROOT = Path(__file__).parents[2]


def test_every_command_names_files_that_exist() -> None:
    for step in steps.STEPS:
        flag, module, *arguments = shlex.split(step.command)
        assert flag == "-m" and (module == "blip" or (ROOT / f"{module.replace('.', '/')}.py").is_file()), step
        for argument in arguments:
            assert not argument.startswith("experiments/") or (ROOT / argument).is_file(), step
    assert len({step.name for step in steps.STEPS}) == len({step.output for step in steps.STEPS}) == len(steps.STEPS)


@pytest.mark.parametrize("program", sorted({step.program for step in steps.STEPS}))
def test_every_option_exists(program: str) -> None:
    known = subprocess.run(
        [sys.executable, "-m", *program.split(), "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    for step in steps.STEPS:
        if step.program == program:
            options = [word for word in shlex.split(step.command) if word.startswith("-") and word != "-m"]
            assert options and all(option in known for option in options), step.command


def test_every_step_reads_what_earlier_ones_wrote() -> None:
    written: list[Path] = []
    for step in steps.STEPS:
        words = shlex.split(step.command)
        read = [Path(word) for word in words[1:] if word.startswith(f"{steps.RUNS}/")]
        if "--config" in words:
            read += _paths(yaml.safe_load((ROOT / words[words.index("--config") + 1]).read_text()))
        for path in read:
            by_prepare = {"init", "synthetic", "teacher"} & set(path.parts[2:3])
            written_here = (
                path == step.output or path in step.output.parents or path.with_suffix(".json") == step.output
            )
            earlier = any(path == done or path in done.parents or path.with_suffix(".json") == done for done in written)
            assert written_here or earlier or by_prepare, f"{step.name} reads {path}"
        written.append(step.output)


def _paths(values: Any) -> list[Path]:
    if isinstance(values, dict):
        return [path for value in values.values() for path in _paths(value)]
    return [Path(values)] if isinstance(values, str) and values.startswith(f"{steps.RUNS}/") else []


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


def test_finished_weights_are_installed_with_their_results_and_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, target = tmp_path / "runs", tmp_path / "assets" / "tiny"
    for folder in (runs / "exported", target):
        folder.mkdir(parents=True)
    (runs / "exported" / "model.safetensors").write_text("new")
    (runs / "results.json").write_text("{}")
    (target / "README.md").write_text("card")
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 3)

    paths = {"RUNS": runs, "ASSETS": target.parent, "RESULTS": tmp_path / "results.json", "STEPS": ()}
    for name, value in paths.items():
        monkeypatch.setattr(steps, name, value)
    monkeypatch.setattr(steps.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["steps"])
    assert steps.main() == 3 and commands == [["-m", "experiments.quotes"]]
    assert (target / "model.safetensors").read_text() == "new" and (target / "README.md").read_text() == "card"
    assert (tmp_path / "results.json").read_text() == "{}"
