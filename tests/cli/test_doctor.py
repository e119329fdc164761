"""`blip doctor` and `blip completion`."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from blip.cli import VERBS
from blip_lite.errors import CheckpointMismatch
from tests.cli.conftest import Blip


def test_the_report_names_what_is_here_and_that_captions_work(blip: Blip) -> None:
    said = blip("doctor", "--json")
    report = json.loads(said.out)
    assert said.code == 0
    assert report["versions"]["torch"] and report["folders"]["checkpoints"]
    assert set(report["extras"]) == {"data", "train", "heif", "video", "java"}
    assert all(value.startswith("ok, a caption in") for value in report["checks"].values())
    assert "checks\n  random-tiny     ok" in blip("doctor").out


def test_a_missing_extra_is_named_with_its_install_line(blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    from blip.cli import doctor

    monkeypatch.setitem(doctor.EXTRAS, "data", "no_such_module")
    found = json.loads(blip("doctor", "--json").out)["extras"]["data"]
    assert found == 'missing; pip install "blip-vlm[data]"'


def test_a_model_that_does_not_work_is_an_environment_problem(blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise CheckpointMismatch("the file is not whole")

    monkeypatch.setattr("blip.api.load", broken)
    said = blip("doctor")
    assert said.code == 4
    assert "blip: error: model 'random-tiny' does not work here: CheckpointMismatch: the file is not whole" in said.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_verbs_flags_and_models(blip: Blip, shell: str) -> None:
    said = blip("completion", shell)
    assert said.code == 0
    for word in (*VERBS, "num-captions", "caption-base", "convert"):
        assert word in said.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=said.out, text=True, check=True)


def test_bash_completes_a_flag(blip: Blip) -> None:
    script = blip("completion", "bash").out
    asked = "COMP_WORDS=(blip caption --bea); COMP_CWORD=2; _blip; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--beams"]


def test_an_unknown_shell_is_one_line(blip: Blip) -> None:
    said = blip("completion", "tcsh")
    assert said.code == 2 and said.err == "blip: error: unknown shell 'tcsh'; must be one of bash, zsh, fish\n"
