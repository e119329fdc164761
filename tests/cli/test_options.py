"""Commands from annotated functions, shared flags, and help in groups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import click
import pytest
import yaml

from blip.cli import VERBS
from blip.cli import options as o
from blip.cli.commands import GENERAL, TASK, Option, argument, command, option
from blip.cli.run import verb_command
from blip.cli.texts import closed_answers, read_texts
from blip_lite.errors import UsageError
from tests.cli.conftest import Blip

IMAGE_VERBS = ("caption", "ask", "match", "embed")
CASES = Path(__file__).parents[1] / "cases"
WIDTH = 98  # of text on a terminal of 100 columns


@dataclass(kw_only=True)
class LoudRun(o.Run):
    loud: Annotated[bool, option(help="Loud.")] = False


def test_a_group_of_flags_is_expanded_and_comes_back_as_one() -> None:
    @command
    def verb(
        name: Annotated[str, argument("NAME", help="Name.")],
        run: LoudRun,
        times: Annotated[int, option(help="Times.")] = 1,
    ) -> int:
        return len(name) * times + run.loud + (run.device == "cpu")

    names = [field.name for field in fields(LoudRun)]
    assert [parameter.name for parameter in verb.params] == ["name", *names, "times", "debug"]
    assert verb.main(["abc", "--times", "2", "--loud", "--device", "cpu"], standalone_mode=False) == 8


def test_values_have_the_annotated_types() -> None:
    @command
    def verb(
        *,
        mode: Annotated[Literal["a", "b"], option(help="Mode.")] = "a",
        text: Annotated[tuple[str, ...], option("-t", "--text", help="Text.")] = (),
        number: Annotated[float | None, option(min=0, help="Number.")] = None,
        compile: Annotated[bool | None, option("--compile/--no-compile", help="Compile.")] = None,
    ) -> int:
        assert (mode, text, number, compile) == ("b", ("x", "y"), 0.5, False)
        return 0

    args = ["--mode", "b", "-t", "x", "--text", "y", "--number", ".5", "--no-compile"]
    assert verb.main(args, standalone_mode=False) == 0
    for args, message in (
        (["--mode", "c"], "--mode c; must be a or b"),
        (["--number", "-1"], "--number -1; must be a number of at least 0"),
        (["--number", "x"], "--number x; must be a number of at least 0"),
    ):
        with pytest.raises(UsageError) as caught:
            verb.main(args, standalone_mode=False)
        assert str(caught.value) == message


@pytest.mark.parametrize("verb", IMAGE_VERBS)
def test_every_verb_over_images_has_every_shared_flag(verb: str) -> None:
    names = {parameter.name for parameter in verb_command(verb).params}
    assert names >= {field.name for field in fields(o.Run)}


def commands() -> Iterator[tuple[str, click.Command]]:
    for verb in VERBS:
        parent = verb_command(verb)
        yield verb, parent
        if isinstance(parent, click.Group):
            yield from ((f"{verb} {name}", child) for name, child in parent.commands.items())


@pytest.mark.parametrize(("name", "made"), list(commands()), ids=[name for name, _ in commands()])
def test_help_has_groups_and_a_line_for_each_flag(name: str, made: click.Command) -> None:
    """Lines fit a terminal of 100 columns, no help text is wrapped, no column shows types."""
    with made.make_context(f"blip {name}", [], resilient_parsing=True, terminal_width=WIDTH) as context:
        text = made.get_help(context)
    assert max(map(len, text.splitlines())) <= WIDTH
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings[-1] == GENERAL and "Options" not in headings
    rows = [line for line in text.partition(f"{headings[0]}:")[2].splitlines() if line.startswith("  ")]
    assert not [row for row in rows if row.startswith("    ")], "wrapped"
    subcommands = len(made.commands) if isinstance(made, click.Group) else 0
    assert len(rows) == len(made.params) + 1 + subcommands
    for parameter in made.params:
        assert isinstance(parameter, click.Argument) or (isinstance(parameter, Option) and parameter.group)
    assert not re.search(r"\b(INTEGER|FLOAT|BOOLEAN|PATH\b.*\bFile path)", text)
    assert made.params == [] or TASK in headings or not any(isinstance(p, click.Argument) for p in made.params)


def test_config_set_and_flags_have_increasing_precedence(blip: Blip, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("beams: 2\nmax_length: 15\nglob: ['*.png']\nprefix: a\n")
    args = ("caption", "x.jpg", "--config", tmp_path / "a.yaml", "--set", "max_length=12", "--set", "ext=jpg")
    result = blip(*args, "--beams", "4", "--set", "glob=*.jpg", "--print-config")
    values = yaml.safe_load(result.out)
    assert result.code == 0 and "inputs" not in values
    assert (values["beams"], values["max_length"], values["ext"], values["prefix"]) == (4, 12, "jpg", "a")
    assert values["glob"] == ["*.jpg"] and "model" not in values
    (tmp_path / "b.yaml").write_text(result.out)
    assert blip("caption", "x.jpg", "--config", tmp_path / "b.yaml", "--print-config").out == result.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beams: 0\n", "a.yaml:1: beams 0; must be an integer from 1 to 32"),
        ("- beams\n", "must be a mapping of flag names to values"),
        ("beams: [\n", "invalid YAML"),
        ("head: itm\n", "unknown key 'head'"),
    ],
)
def test_wrong_configs_are_one_line(blip: Blip, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    result = blip("caption", "x.jpg", "--config", tmp_path / "a.yaml")
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1


def test_config_flags_are_shown_where_they_work() -> None:
    verbs = {verb for verb in VERBS if any(p.name == "print_config" for p in verb_command(verb).params)}
    assert verbs == {"caption", "ask", "match", "embed", "explain", "index", "search", "train"}


def test_a_byte_order_mark_does_not_reach_texts_and_answers(tmp_path: Path) -> None:
    assert read_texts((), CASES / "texts_bom.txt") == ["a cat", "a dog"]
    for name, text in {"a.txt": "yes\r\nno\r\n", "a.json": '["yes", "no"]'}.items():
        (tmp_path / name).write_text(text, "utf-8-sig")
        assert closed_answers(str(tmp_path / name), "rank") == ["yes", "no"]
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(UsageError, match=r"deep.json; nested too deeply"):
        closed_answers(str(tmp_path / "deep.json"), "rank")


def test_a_wrong_type_in_a_file_or_a_set_names_place_key_and_allowed_values(blip: Blip) -> None:
    result = blip("caption", "x.jpg", "--config", CASES / "wrong_type.yaml")
    assert result.code == 2
    assert result.err.endswith("wrong_type.yaml:1: beams 'abc'; must be an integer from 1 to 32\n")
    result = blip("caption", "x.jpg", "--set", "beams=abc")
    assert result.code == 2 and result.err == "blip: error: --set: beams 'abc'; must be an integer from 1 to 32\n"
