"""Flags from files: `--config FILE`, `--set NAME=VALUE` and `--print-config`, by click's `default_map`.

Keys are the long names of flags with underscores. Precedence: the flags themselves, --set, the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from blip.cli.commands import GENERAL, Command, Option, allowed, command
from blip_lite.errors import ConfigError, UnknownKey, UsageError
from blip_lite.text_files import read_text

NOT_SETTINGS = ("inputs",)


def configurable(function: Callable[..., int]) -> Command:
    """Return the command of an annotated function, with the flags of this module."""
    eager: dict[str, Any] = {"group": GENERAL, "is_eager": True, "expose_value": False}
    flags = (
        Option(["--config"], metavar="FILE", default=None, help="YAML file of flags.", callback=_read_file, **eager),
        Option(
            ["--set"],
            metavar="NAME=VALUE",
            multiple=True,
            default=(),
            help="Set a flag as in --config (repeatable).",
            callback=_read_sets,
            **eager,
        ),
        Option(
            ["--print-config"],
            is_flag=True,
            help="Print all flags as YAML for --config and exit.",
            callback=_request_print,
            **eager,
        ),
    )
    return command(function, cls=ConfigurableCommand, more=flags)


class ConfigurableCommand(Command):
    """A command whose flags can be given by a file."""

    def invoke(self, ctx: click.Context) -> Any:  # Any: click's signature
        if ctx.meta.get(__name__):
            print(to_yaml({p.name: ctx.params[p.name] for p in self.params if p.name in ctx.params}), end="")
            return 0
        return super().invoke(ctx)


def _read_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        ctx.default_map = {**_read(Path(value), _known(ctx)), **(ctx.default_map or {})}


def _read_sets(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> None:
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}; must be NAME=VALUE")
        known = _known(ctx)
        if name not in known:
            raise UnknownKey(name, list(known))
        _check_value(known[name], _scalar(value), "--set")
        ctx.default_map = {**(ctx.default_map or {}), name: _value(known[name], _scalar(value))}


def _request_print(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta[__name__] = value


def _known(ctx: click.Context) -> dict[str, click.Parameter]:
    return {p.name: p for p in ctx.command.params if p.expose_value and p.name not in NOT_SETTINGS}


def _value(parameter: click.Parameter, value: Any) -> Any:
    return [value] if parameter.multiple and not isinstance(value, list) else value


def _types(kind: click.ParamType[Any]) -> tuple[type, ...]:
    """Return the types of YAML values that a flag accepts; texts are converted by click."""
    if isinstance(kind, click.IntRange):
        return (int, str, type(None))
    return (bool, str, type(None)) if _is_switch(kind) else (int, float, str, type(None))


def _is_switch(kind: click.ParamType[Any]) -> bool:
    return isinstance(kind, click.types.BoolParamType)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return the settings as YAML for `--config`, without those that are not given."""
    import yaml

    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if value not in (None, ()) and name not in NOT_SETTINGS
    }
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _read(path: Path, known: Mapping[str, click.Parameter]) -> dict[str, Any]:
    import yaml

    try:
        text = read_text(path)
        node, values = yaml.compose(text), yaml.safe_load(text) or {}
    except OSError as error:
        raise UsageError(f"--config {path}; {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: invalid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of flag names to values")
    for key, _ in node.value if node is not None else ():
        where = f"{path}:{key.start_mark.line + 1}"
        if key.value not in known:
            raise ConfigError(f"{where}: {UnknownKey(str(key.value), list(known))}")
        _check_value(known[key.value], values[key.value], where)
    return {name: _value(known[name], value) for name, value in values.items()}


def _check_value(parameter: click.Parameter, value: Any, where: str) -> None:
    """Raise ConfigError with place, key, value and what is allowed if a flag does not accept a value."""
    many = parameter.multiple or parameter.nargs != 1
    for item in value if many and isinstance(value, list) else [value]:
        misread = isinstance(item, bool) and not _is_switch(parameter.type)
        if misread or not isinstance(item, _types(parameter.type)):
            raise ConfigError(f"{where}: {parameter.name} {item!r}; must be {allowed(parameter.type)}")
    try:
        parameter.type_cast_value(click.get_current_context(), _value(parameter, value))
    except UsageError as error:  # names the flag instead of the key
        raise ConfigError(f"{where}: {parameter.name} {value!r}; {str(error).rpartition('; ')[2]}") from error


def _scalar(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
