"""All verbs: help without torch, exit codes, one-line errors."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from blip.cli import VERBS, main
from blip.cli.options import note_default
from blip.cli.run import verb_command
from blip_lite.errors import EnvironmentProblem
from tests.cli.conftest import Blip
from tests.waiting import HANG_SECONDS

RANDOM = ("-m", "random-tiny")
HEAVY = {"torch", "numpy", "PIL", "onnxruntime", "omegaconf", "huggingface_hub", "httpx2"}
MODULES = 600  # loaded after the help of all verbs; torch alone is more than a thousand


def test_help_imports_little_and_no_torch() -> None:
    """Quick because it imports little: counted, as times depend on the load of the machine (see benchmarks)."""
    code = (
        "import sys; from blip.cli import VERBS, main\n"
        "for verb in ([], *([verb] for verb in VERBS)):\n"
        "    assert main([*verb, '--help']) == 0, verb\n"
        f"    loaded = sys.modules.keys() & {HEAVY!r}\n"
        f"    assert not loaded and len(sys.modules) < {MODULES}, (verb, loaded, len(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().count("blip") > len(VERBS)


def test_without_a_verb_the_verbs_are_listed(blip: Blip) -> None:
    result = blip()
    assert result.code == 2 and result.out == "" and all(verb in result.err for verb in VERBS)
    assert blip("--help").code == 0


def test_the_version_names_torch_and_python(blip: Blip) -> None:
    assert re.fullmatch(r"blip \d+\.\d+\.\d+ \(torch \S+, python \d\.\d+\.\d+\)\n", blip("--version").out)


def test_usage_errors_exit_2(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.yaml").write_text("beams: 1\nbeems: 2\n")
    for args, message in (
        (("captoin",), "unknown verb 'captoin'; did you mean 'caption'?"),
        (("caption", photos, "--beens", "3"), "unknown flag '--beens'; did you mean '--beams'?"),
        (("caption", photos, "--beams", "0"), "--beams 0; must be an integer from 1 to 32"),
        (("caption", photos, "--beams=x"), "--beams x; must be an integer from 1 to 32"),
        (("caption", photos, "--top-p", "2"), "--top-p 2; must be a number from 0 to 1"),
        (("caption", photos, "--config", tmp_path / "a.yaml"), "a.yaml:2: unknown key 'beems'; did you mean 'beams'?"),
        (("caption", photos, "--set", "beems=2"), "unknown key 'beems'; did you mean 'beams'?"),
        (("caption", photos, "--sample", "--beams", "2"), "--beams with --sample; must be one of the two"),
        (("caption", photos, "--overwrite", "--skip-existing"), "--skip-existing with --overwrite; must be one"),
        (("caption", photos, "--append"), "--append; must be used with --sidecar, --sidecar-dir or --xmp"),
        (("caption", photos, "--xmp", "--append", "--overwrite"), "--append with --skip-existing or --overwrite"),
        (("models", "lst"), "unknown verb 'lst'; did you mean 'list'?; 'blip models --help' lists all"),
        (("models", "info"), "Missing argument 'NAME'"),
        (("caption", tmp_path / "empty"), "no inputs found in"),
        (("caption", photos, "--format", "docx"), "--format docx; must be one of text, jsonl"),
        (("caption", photos, "--shard", "3/2"), "--shard 3/2; must be I/N"),
        (("caption", photos, *RANDOM, "--device", "tpu"), "device 'tpu'; must be auto, cpu, cuda"),
    ):
        result = blip(*args)
        assert (result.code, result.out) == (2, ""), (args, result)
        assert result.err.startswith("blip: error: ") and len(result.err.splitlines()) == 1, result.err
        assert message in result.err


def test_model_problems_exit_3(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for args, message in (
        (("-m", "caption-bse"), "unknown model 'caption-bse'; did you mean 'caption-base'?"),
        (("-m", "caption-base", "--offline"), "model 'caption-base' is not cached and --offline is set"),
        (("-m", tmp_path / "broken.pth"), "broken.pth"),
        (("-m", tmp_path / "nothing.pth"), "no such file or folder"),
    ):
        result = blip("caption", photos / "a.png", *args)
        assert (result.code, result.out) == (3, ""), (args, result)
        assert result.err.startswith("blip: error: ") and len(result.err.splitlines()) == 1, result.err
        assert message in result.err


def test_environment_problems_exit_4(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = blip("caption", photos / "a.png", *RANDOM, "--device", "cuda:7")
    assert (result.code, result.out) == (4, "") and "device 'cuda:7' is not available" in result.err

    def full(*args: object, **options: object) -> None:
        raise EnvironmentProblem("out.txt: no space left on the disk; free some or write elsewhere")

    monkeypatch.setattr("blip.io.record_files._Streamed.write", full)
    result = blip("caption", photos / "a.png", *RANDOM)
    assert result.code == 4 and "no space left on the disk" in result.err


def test_bugs_exit_70_with_the_traceback(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.io.inputs.find_inputs", lambda *args, **options: 1 / 0)
    result = blip("caption", photos)
    assert result.code == 70 and "ZeroDivisionError" in result.err and "please report" in result.err


def test_a_missing_torch_is_reported_with_what_works_without_it(
    blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("blip.api.load", load)
    result = blip("caption", photos / "a.png", "-m", "random-tiny")
    assert (
        result.code == 4
        and result.err.startswith("blip: error: torch is not installed")
        and result.err.count("\n") == 1
    )


def test_warnings_are_one_line() -> None:
    code = "import sys, warnings; from blip.cli.run import run; sys.modules['blip.cli.w'] = sys; "
    code += "from blip.cli.commands import command; sys.w = command(lambda: warnings.warn('folder\\nskipped') or 0); "
    code += "sys.exit(run(['w'], {'w': 'x'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "blip: warning: folder skipped\n")


def test_a_full_disk_keeps_results(photos: Path, tmp_path: Path, blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", full)
    result = blip("caption", photos / "a.png", *RANDOM, "-o", tmp_path / "out.csv")
    assert result.code == 4 and "no space left on the disk" in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv.part.jsonl", "photos"]


@pytest.mark.integration
def test_a_closed_pipe_ends_the_run_with_one_line(photos: Path) -> None:
    for i in range(60):
        (photos / f"x{i}.png").write_bytes((photos / "a.png").read_bytes())
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # less than the output, so the command cannot end unread
    command = [sys.executable, "-m", "blip", "caption", str(photos), *RANDOM, "-q", "--batch-size", "1", "--json"]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=photos.parent)
    os.close(writer)
    with open(reader) as lines:
        assert lines.readline().startswith("{")
    _, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 141, err
    assert err == "blip: error: standard output was closed before all results were written\n"


def test_paths_of_every_kind(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    for name in ("-dash.png", "with space.png", "ünï.png", "tab\there.png"):
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    result = blip("caption", *RANDOM, "--", "-dash.png", "with space.png", "ünï.png", "tab\there.png")
    assert result.code == 0
    keys = [line.split("\t")[0] for line in result.out.splitlines()]
    assert keys == ["-dash.png", "with space.png", "ünï.png", "tab here.png"]


def test_the_default_model_is_noted_on_a_terminal_once_a_day(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIP_HOME", str(tmp_path))
    monkeypatch.delenv("BLIP_MODEL", raising=False)

    def noted(*, terminal: bool = True, quiet: bool = False) -> bool:
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
        note_default(None, "tiny", quiet)
        return "published checkpoints are far better: -m caption-base" in capfd.readouterr().err

    assert not noted(terminal=False) and not noted(quiet=True)
    assert noted() and not noted()
    os.utime(tmp_path / "noted" / "tiny", (0, 0))
    assert noted()


def test_every_command_has_quiet(blip: Blip, photos: Path) -> None:
    def missing(name: str, made: click.Command) -> list[str]:
        names = {option for parameter in made.params for option in parameter.opts}
        inner = made.commands.items() if isinstance(made, click.Group) else ()
        return [name] * ("--quiet" not in names) + [m for key, value in inner for m in missing(f"{name} {key}", value)]

    assert [name for verb in VERBS for name in missing(verb, verb_command(verb))] == []
    (photos / "tiny").mkdir()
    args = ("models", "convert", "random-tiny", "-o", photos / "tiny")
    assert blip(*args, "-q").err == "" and blip(*args, "--overwrite").err.startswith("wrote a")


def test_values_of_a_config_must_have_the_type_of_the_flag(blip: Blip, photos: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    for text, message in (
        ("json: true\nbeams: [1, 2]", ":2: beams [1, 2]; must be an integer from 1 to 32"),
        ("beams: 2.5", ":1: beams 2.5; must be an integer from 1 to 32"),
        ("beams: true", ":1: beams True; must be an integer"),
        ("prompt: [a, b]", ":1: prompt ['a', 'b']; must be a text"),
        ("prompt: {a: b}", ":1: prompt {'a': 'b'}; must be a text"),
        ("recursive: 3", ":1: recursive 3; must be true or false"),
        ("beams: abc", ":1: beams 'abc'; must be an integer from 1 to 32"),
    ):
        config.write_text(text)
        result = blip("caption", photos / "a.png", "--config", config)
        assert (result.code, len(result.err.splitlines())) == (2, 1) and message in result.err, result.err
    assert "--set: beams [1]; must be" in blip("caption", photos / "a.png", "--set", "beams=[1]").err


def test_main_leaves_no_signal_handler_behind_for_a_caller(photos: Path) -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    assert main(["caption", str(photos / "a.png"), *RANDOM, "-q"]) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_everything_works_without_a_network(photos: Path, blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a socket was opened or waited for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(time, "sleep", refuse)  # no retries
    assert blip("caption", photos / "a.png", "--offline").code == 0
    assert blip("match", photos / "a.png", "-t", "x", "--offline").code == 0
