"""Flags that verbs share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from inspect import signature
from typing import get_type_hints

import pytest

from blip.cli import options as o
from blip.cli.run import verb_app

VERBS = ("caption", "ask", "match", "embed")


@dataclass(kw_only=True)
class LoudRun(o.Run):
    loud: bool = False


RUN = LoudRun()


def test_a_group_of_flags_is_spelled_out_and_comes_back_as_one() -> None:
    def verb(name: str, run: LoudRun = RUN, times: int = 1) -> int:
        return len(name) * times + run.loud + (run.device == "cpu")

    spelled = o.flat(verb)
    names = [field.name for field in fields(LoudRun)]
    assert list(signature(spelled).parameters) == ["name", *names, "times"]
    given = {field.name: field.default for field in fields(LoudRun)}
    assert spelled(name="abc", times=2, **given | {"loud": True, "device": "cpu"}) == 8
    assert get_type_hints(spelled)["loud"] is bool


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_over_images_has_every_shared_flag(verb: str) -> None:
    from typer.main import get_command

    names = {parameter.name for parameter in get_command(verb_app(verb)).params}
    assert names >= {field.name for field in fields(o.Run)}
