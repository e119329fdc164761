"""Completion of words in shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from blip.cli import VERBS
from blip.cli.run import COMPLETION, Program
from tests.cli.conftest import Blip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("capt",), ["caption"]),
        (("--ver",), ["--version"]),
        (("caption", "--num"), ["--num-captions"]),
        (("ask", "--ans"), ["--answers"]),
        (("caption", "-m", "caption-"), ["caption-base", "caption-large"]),
        (("caption", "--itm-model", "ti"), ["tiny", "tiny-vqa"]),
        (("match", "--head", "it"), ["itm", "itc"]),
        (("models", "ver"), ["verify"]),
        (("models", "info", "vqa-"), ["vqa-base", "vqa-base-capfilt"]),
        (("models", "convert", "--in"), ["--int8"]),
        (("models", "convert", "--to", "h"), ["hf"]),
        (("models", "--ins"), []),
        (("train", "--init", "nlvr"), ["nlvr-base"]),
        (("train", "vq"), ["vqa"]),
        (("eval", "noc"), ["nocaps"]),
        (("eval", "caption", "--data", "flick"), ["flickr30k"]),
        (("datasets", "info", "nlv"), ["nlvr2"]),
        (("datasets", "check", "coc"), ["coco"]),
        (("schema", "emb"), ["embedding"]),
        (("completion", "z"), ["zsh"]),
        (("nothing", "x"), []),
    ],
)
def test_words_are_completed(words: tuple[str, ...], expected: list[str]) -> None:
    *before, incomplete = words
    items = ShellComplete(Program(VERBS), {}, "blip", COMPLETION).get_completions(before, incomplete)
    assert [item.value for item in items] == expected


def test_files_are_completed_if_no_name_matches() -> None:
    for words in (["caption", "-m"], ["caption"], ["eval", "caption", "--data"]):
        (item,) = ShellComplete(Program(VERBS), {}, "blip", COMPLETION).get_completions(words, "./x")
        assert item.type == "file", words


def test_bash_completes_without_torch(tmp_path: Path) -> None:
    """The printed script calls the program, which imports no torch."""
    program = tmp_path / "blip"
    code = "import sys; from blip.cli import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    words = "COMP_WORDS=(blip caption -m caption-); COMP_CWORD=3"
    script = f"source <(blip completion bash); {words}; _blip_completion blip; echo ${{COMPREPLY[@]}}"
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout.split(), done.stderr) == (["caption-base", "caption-large"], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(blip: Blip, shell: str) -> None:
    result = blip("completion", shell)
    assert result.code == 0 and f"{COMPLETION}={shell}_complete" in result.out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=result.out, text=True, check=True)


def test_every_verb_is_completed() -> None:
    items = ShellComplete(Program(VERBS), {}, "blip", COMPLETION).get_completions([], "")
    assert [item.value for item in items] == list(VERBS)


def test_an_unknown_shell_is_a_usage_error(blip: Blip) -> None:
    result = blip("completion", "tcsh")
    assert result.code == 2 and result.err == "blip: error: SHELL tcsh; must be bash, zsh or fish\n"
