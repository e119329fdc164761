"""`blip completion`: a script that completes verbs, flags and model names, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from blip.cli import options as o

SHELLS = ("bash", "zsh", "fish")


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
    debug: o.Debug = False,
) -> int:
    """Print the completion script of a shell. Example: source <(blip completion bash)"""
    from blip_lite.errors import UsageError

    if shell not in SHELLS:
        raise UsageError(f"unknown shell '{shell}'; must be one of {', '.join(SHELLS)}")
    words = _words()
    print(_fish(words) if shell == "fish" else _bash(words, shell))
    return 0


def _words() -> dict[str, list[str]]:
    """For each verb its flags, subcommands with their flags, and names that it takes."""
    from typer.main import get_command

    from blip.cli import VERBS
    from blip.cli.run import verb_app

    found = {}
    for verb in VERBS:
        command: Any = get_command(verb_app(verb))
        below = getattr(command, "commands", {})
        options = [option for c in (command, *below.values()) for p in c.params for option in _options(p)]
        flags = [option for option in dict.fromkeys(options) if not option.endswith("-completion")]
        found[verb] = [*_NAMES.get(verb, lambda: ())(), *below, *flags, "--help"]
    return found


def _options(parameter: Any) -> list[str]:
    return [option for option in (*parameter.opts, *parameter.secondary_opts) if option.startswith("--")]


def _records() -> tuple[str, ...]:
    from blip.io.schemas import NAMES

    return NAMES


# what follows a verb besides flags
_NAMES: dict[str, Callable[[], Sequence[str]]] = {"completion": lambda: SHELLS, "schema": _records}
_TAKE_MODELS = ("-m", "--model", "--itm", "--init", "info", "get", "rm", "path", "verify", "diff", "convert")


def _models() -> str:
    from blip.checkpoint.catalogue import ENTRIES

    return " ".join(entry.name for entry in ENTRIES if "/" not in entry.name)


def _bash(words: Mapping[str, list[str]], shell: str) -> str:
    cases = "\n".join(f'    {verb}) words="{" ".join(found)}";;' for verb, found in words.items())
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{start}_blip() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
  if [ "$COMP_CWORD" = 1 ]; then words="{" ".join(words)} --help --version"
  elif [[ " {" ".join(_TAKE_MODELS)} " == *" $before "* && $word != -* ]]; then words="{_models()}"
  else case ${{COMP_WORDS[1]}} in
{cases}
  esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _blip blip"""


def _fish(words: Mapping[str, list[str]]) -> str:
    verbs = " ".join(words)
    lines = [f"complete -c blip -n 'not __fish_seen_subcommand_from {verbs}' -f -a '{verbs}'"]
    for verb, found in words.items():
        seen = f"complete -c blip -n '__fish_seen_subcommand_from {verb}'"
        lines += [f"{seen} -l {w[2:]}" if w.startswith("--") else f"{seen} -a {w}" for w in found]
    lines.append(f"complete -c blip -s m -l model -x -a '{_models()}'")
    lines.append(f"complete -c blip -n '__fish_seen_subcommand_from models' -a '{_models()}'")
    return "\n".join(lines)
