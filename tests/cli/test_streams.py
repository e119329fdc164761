"""Standard streams that are closed or full, and names with control characters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Blip
from tests.waiting import wait_until

RANDOM = ("-m", "random-tiny")


def shell(command: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in which "$BLIP" is this program and $1, $2 are `args`."""
    script = command.replace("BLIP", f'"{sys.executable}" -m blip')
    return subprocess.run(["sh", "-c", script, "sh", *map(str, args)], capture_output=True, text=True, check=False)


@pytest.mark.integration
@pytest.mark.parametrize("verb", ["schema caption", "schema", "completion bash", "models list", "datasets list"])
def test_closed_and_full_streams(verb: str) -> None:
    full = "blip: error: standard output: No space left on device\n"
    closed = "blip: error: standard output: Bad file descriptor\n"
    for redirection, code, error in (
        (">/dev/full", 4, full),
        (">&-", 4, closed),
        (">/dev/null 2>&-", 0, ""),
        (">/dev/null 2>/dev/full", 0, ""),
        (">/dev/null <&-", 0, ""),
    ):
        result = shell(f"BLIP {verb} {redirection}")
        assert (result.returncode, result.stdout, result.stderr) == (code, "", error), redirection


@pytest.mark.integration
def test_errors_without_a_standard_error_still_have_their_exit_code() -> None:
    for redirection in ("2>&-", "2>/dev/full", ">&- 2>&-"):
        result = shell(f"BLIP caption nothing.png --limit 0 {redirection}")
        assert (result.returncode, result.stdout, result.stderr) == (2, "", "")


@pytest.mark.integration
def test_results_on_closed_and_full_streams(photos: Path) -> None:
    for flags in ("", "--json", "--format csv"):
        for redirection, reason in (
            (">/dev/full", "no space left on the disk (No space left on device); free some or write elsewhere"),
            (">&-", "cannot be written (Bad file descriptor)"),
        ):
            result = shell(f'BLIP caption "$1" --no-progress {flags} {redirection}', photos / "a.png")
            assert result.returncode == 4, result.stderr
            assert result.stderr.splitlines()[-1] == f"blip: error: standard output: {reason}"
            assert "Traceback" not in result.stderr and "Exception" not in result.stderr
    result = shell('BLIP caption "$1" -o "$2" -q >&- 2>&-', photos / "a.png", photos / "o.csv")
    assert result.returncode == 0 and len((photos / "o.csv").read_text().splitlines()) == 2


@pytest.mark.integration
def test_a_reader_that_stops_early_is_reported() -> None:
    result = shell("{ BLIP schema caption; echo $? >&2; } | true")
    assert result.stderr.splitlines()[-1] in ("141", "0") and "Traceback" not in result.stderr


@pytest.mark.integration
def test_ctrl_c_is_reported_once(photos: Path) -> None:
    for i in range(200):
        (photos / f"x{i:03d}.png").write_bytes((photos / "a.png").read_bytes())
    out = photos / "out.csv"
    command = [sys.executable, "-m", "blip", "caption", str(photos), "-o", str(out), "--batch-size", "1", "-q"]
    store = photos / "out.csv.part.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: store.exists() and store.stat().st_size > 0, process)
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
    assert process.returncode == 130
    assert error.splitlines()[-1] == "blip: error: interrupted" and error.count("interrupted") == 1, error
    assert f"of 205 inputs; --resume continues {store}" in error
    assert not out.exists()


def test_names_with_escape_sequences_are_shown_escaped(blip: Blip, photos: Path) -> None:
    evil = photos / "a\x1b]0;owned\x07\x1b[31m.png"
    evil.write_bytes(b"no image")
    for args in (("caption", evil, *RANDOM), ("caption", photos, "--dry-run"), ("caption", f"{evil}.png")):
        result = blip(*args)
        assert "\x1b" not in result.err and "\x07" not in result.err
    assert "a\\x1b]0;owned\\x07\\x1b[31m.png: " in blip("caption", evil, *RANDOM).err


@pytest.mark.integration
def test_lists_on_a_terminal_are_escaped(photos: Path) -> None:
    (photos / "b\x1b[31m.png").write_bytes((photos / "a.png").read_bytes())
    main, child = os.openpty()
    subprocess.run([sys.executable, "-m", "blip", "caption", str(photos), "--dry-run"], stdout=child, check=True)
    os.close(child)
    text = os.read(main, 100_000).decode()
    os.close(main)
    assert "b\\x1b[31m.png" in text and "\x1b" not in text
