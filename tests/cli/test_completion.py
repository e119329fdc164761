"""What `blip completion` offers where."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import Blip


@pytest.fixture(scope="module")
def script() -> str:
    code = "import sys; from blip.cli import main; main(['completion', 'bash']); assert 'torch' not in sys.modules"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def offered(script: str, *words: str) -> list[str]:
    """What follows these words, the last of which is being typed."""
    quoted = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _blip; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("blip", "cap"), ["caption"]),
        (("blip", "ask", "--ans"), ["--answers"]),
        (("blip", "caption", "-m", "caption-"), ["caption-base", "caption-large"]),
        (("blip", "caption", "--itm", "ti"), ["tiny", "tiny-vqa"]),
        (("blip", "models", "ver"), ["verify"]),
        (("blip", "models", "info", "vqa-"), ["vqa-base", "vqa-base-capfilt"]),
        (("blip", "models", "convert", "--in"), ["--int8"]),
        (("blip", "models", "--ins"), []),
        (("blip", "schema", "emb"), ["embedding"]),
        (("blip", "completion", "z"), ["zsh"]),
        (("blip", "nothing", "x"), []),
    ],
)
def test_bash_offers(script: str, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(script, *words) == expected


def test_other_shells_get_the_same_words(blip: Blip) -> None:
    assert blip("completion", "zsh").out.startswith("autoload -U +X bashcompinit")
    lines = blip("completion", "fish").out.splitlines()
    assert all(line.startswith("complete -c blip ") for line in lines)
    assert "complete -c blip -n '__fish_seen_subcommand_from schema' -a embedding" in lines
