"""`blip completion`: the script that completes verbs, flags and names in a shell."""

from __future__ import annotations

from typing import Annotated, Literal

import click
from click.shell_completion import get_completion_class

from blip.cli.commands import argument, command
from blip.cli.run import COMPLETION


@command
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], argument("SHELL", help="bash, zsh or fish.")]) -> int:
    """Print the completion script of a shell.

    Example: source <(blip completion bash)
    """
    shell_class = get_completion_class(shell)
    assert shell_class is not None
    program = click.get_current_context().find_root().command
    print(shell_class(program, {}, "blip", COMPLETION).source())
    return 0
