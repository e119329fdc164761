"""Commands made from annotated functions, and their help in groups.

A parameter `beams: Annotated[int, option(help="Beam width.")] = 3` becomes the flag `--beams`. A parameter whose type
is a dataclass stands for the fields of that dataclass, so commands can share flags; the class attribute `group` is
their heading in help.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from click.shell_completion import CompletionItem

from blip_lite.errors import UsageError

# headings in help; a heading of a single command comes before "Input"
TASK, DECODING, SERVER = "Task", "Decoding", "Server"
INPUT, COLUMNS, OUTPUT, DEVICE, GENERAL = LAST_GROUPS = ("Input", "Columns", "Output", "Device", "General")
QUIET = "quiet"  # key of click's context
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
METAVARS = {int: "N", float: "X", Path: "PATH"}  # else NAME
Completer = Callable[[], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Spec:
    """Attributes of a flag or argument, apart from its type and default."""

    names: tuple[str, ...]
    group: str | None  # None: that of the dataclass, else TASK
    attrs: dict[str, Any]  # of click's parameter
    positional: bool = False
    min: float | None = None
    max: float | None = None


def option(
    *names: str,
    help: str,
    group: str | None = None,
    default: str | None = None,
    min: float | None = None,
    max: float | None = None,
    metavar: str | None = None,
    envvar: str | None = None,
    complete: Completer | None = None,
) -> Spec:
    """Annotation of a flag. `default` is shown in help where the real default is None; `complete` lists values."""
    attrs = {"help": help, "show_default": default, "metavar": metavar, "envvar": envvar}
    return Spec(names, group, attrs | {"shell_complete": _completer(complete)}, min=min, max=max)


def argument(metavar: str, *, help: str, complete: Completer | None = None) -> Spec:
    """Annotation of a positional argument; shells complete files if `complete` is not given."""
    attrs = {"help": help, "metavar": metavar, "shell_complete": _completer(complete)}
    return Spec((), None, attrs, positional=True)


def _completer(values: Completer | None) -> Callable[..., list[CompletionItem]] | None:
    """Return click's completion function: the values that fit, else files."""
    if values is None:
        return None

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in values() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]

    return complete


class _Parameter(click.Parameter):
    """A parameter that reports an invalid value as `--flag VALUE; must be ...`."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter as error:
            name = self.metavar if isinstance(self, click.Argument) else max(self.opts, key=len)
            raise UsageError(f"{name} {value}; must be {allowed(self.type)}") from error


class Argument(_Parameter, click.Argument):
    """A positional argument."""


class Option(_Parameter, click.Option):
    """A flag in a group of the help."""

    def __init__(self, *args: Any, group: str, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.group = group

    def get_help_spec(self, ctx: click.Context) -> str:
        """Return names and metavar; of `--x/--no-x`, the name that changes the default."""
        if not self.secondary_opts:
            return ", ".join(sorted(self.opts, key=len)) + ("" if self.is_flag else f" {self.make_metavar(ctx)}")
        if self.default is None and self.secondary_opts[0] == f"--no-{self.opts[0][2:]}":
            return f"--[no-]{self.opts[0][2:]}"
        if self.default is None:
            return ", ".join((*self.opts, *self.secondary_opts))
        return self.secondary_opts[0] if self.default else self.opts[0]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        default = self.show_default or self.default
        if self.required:
            note = " [required]"
        elif self.is_flag or default in (None, "", ()):
            note = ""
        else:
            note = f" [default: {f'{default:g}' if isinstance(default, float) else default}]"
        return self.get_help_spec(ctx), f"{self.help}{note}"


class Command(click.Command):
    """A command whose help has a heading for each group of flags."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the arguments, the required flags and `[OPTIONS]`."""
        options, *pieces = super().collect_usage_pieces(ctx)
        flags = [flag for flag in self.params if isinstance(flag, Option) and flag.required]
        required = [f"{min(flag.opts, key=len)} {flag.make_metavar(ctx)}" for flag in flags]
        return [options, *required, *pieces]

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: arguments are the first lines of their group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {TASK: []}
        for parameter in self.params:
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", TASK), []).append(record)
        help_option = self.get_help_option(ctx)
        if help_option is not None:
            groups.setdefault(GENERAL, []).append((", ".join(help_option.opts), "Show this help."))
        width = max(len(name) for rows in groups.values() for name, _ in rows)
        for name in (*(name for name in groups if name not in LAST_GROUPS), *LAST_GROUPS):
            if groups.get(name):
                with formatter.section(name):
                    formatter.write_dl([(flag.ljust(width), text) for flag, text in groups[name]])


class Group(Command, click.Group):
    """A command with subcommands, listed in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        Command.format_options(self, ctx, formatter)

    def subcommand(self, name: str) -> Callable[[Callable[..., int]], Command]:
        """Decorator that makes a subcommand of an annotated function."""

        def decorate(function: Callable[..., int]) -> Command:
            made = command(function, name)
            self.add_command(made)
            return made

        return decorate


def command(
    function: Callable[..., int],
    name: str | None = None,
    *,
    cls: type[Command] = Command,
    more: Sequence[click.Parameter] = (),
) -> Command:
    """Return the command of an annotated function that returns an exit code; `more` are flags it does not take."""
    parameters, callback = _expand(function)
    # a flag that blip.cli.run looks for
    debug = Option(["--debug"], is_flag=True, expose_value=False, group=GENERAL, help="Show tracebacks.")
    if not any(parameter.name == "quiet" for parameter in parameters):
        parameters.append(_quiet())
    return cls(
        name or function.__name__,
        params=[*parameters, debug, *more],
        callback=callback,
        help=inspect.getdoc(function),
        context_settings=HELP,
    )


def _quiet() -> Option:
    """Return --quiet for a command that has no parameter of this name; `blip.cli.options.note` honours it."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        ctx.meta[QUIET] = value or ctx.meta.get(QUIET, False)

    attrs: dict[str, Any] = {"group": GENERAL, "is_flag": True, "expose_value": False, "callback": remember}
    return Option(["-q", "--quiet"], help="Hide notes.", **attrs)


class BareGroup(Group):
    """A command with subcommands that is itself a command with arguments: `blip capfilt DATA -o OUT`.

    Its parameters are those of the command itself, which parses them.
    """

    def __init__(self, bare: Command) -> None:
        super().__init__(bare.name, params=list(bare.params), help=bare.help, context_settings=HELP)
        self.bare = bare

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        help_option = self.get_help_option(ctx)
        return [] if help_option is None else [help_option]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage of the command itself, then that of its subcommands."""
        formatter.write_usage(ctx.command_path, " ".join(self.bare.collect_usage_pieces(ctx)))
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS]...", prefix=" " * len("Usage: "))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_bare = args and args[0] not in (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, ["", *args] if is_bare else args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, name) if name else self.bare


def group(name: str, help: str, *, default: Command) -> Group:
    """Return a command with subcommands; without one, it is `default`, the first of them."""

    def call(ctx: click.Context, /, **values: Any) -> int:
        return 0 if ctx.invoked_subcommand else int(default.callback(**values))  # type: ignore[misc]

    attrs: dict[str, Any] = {"callback": click.pass_context(call), "help": help, "context_settings": HELP}
    made = Group(name, params=list(default.params), invoke_without_command=True, **attrs)
    made.add_command(default)
    return made


def _expand(function: Callable[..., int]) -> tuple[list[click.Parameter], Callable[..., int]]:
    """Return click's parameters of a function, and the function called with their values.

    The fields of its dataclass parameters are parameters of their own.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[click.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            parameters.append(_parameter(name, kind, parameter.default, TASK))
            continue
        flags, fields = get_type_hints(kind, include_extras=True), dataclasses.fields(kind)
        groups[name] = kind, [field.name for field in fields]
        for field in fields:
            parameters.append(_parameter(field.name, flags[field.name], field.default, _heading(kind, field.name)))

    def call(**values: Any) -> int:
        made = {name: kind(**{field: values.pop(field) for field in names}) for name, (kind, names) in groups.items()}
        return function(**values, **made)

    return parameters, call


def _heading(kind: type, field: str) -> str:
    """Return the heading of the class that declares a field."""
    owner = next(base for base in kind.__mro__ if field in inspect.get_annotations(base))
    return str(owner.__dict__.get("group", TASK))


def _parameter(name: str, annotation: Any, default: Any, heading: str) -> click.Parameter:
    kind, spec = get_args(annotation)
    many = get_origin(kind) is tuple
    if many:
        kind = get_args(kind)[0]
    elif get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    attrs = dict(spec.attrs)
    if default not in (inspect.Parameter.empty, dataclasses.MISSING):
        attrs["default"] = default
    if spec.positional:
        attrs["required"] = "default" not in attrs and not attrs["metavar"].startswith("[")
        if get_origin(kind) is not Literal:
            attrs["shell_complete"] = attrs["shell_complete"] or _completer(tuple)
        return Argument([name], type=_click_type(kind, spec), nargs=-1 if many else 1, **attrs)
    names = spec.names or (f"--{name.replace('_', '-')}",)
    attrs |= {"group": spec.group or heading, "required": "default" not in attrs}
    if kind is bool:
        return Option([name, *names], is_flag=True, **attrs)
    attrs["metavar"] = attrs["metavar"] or METAVARS.get(kind, "NAME")
    return Option([name, *names], type=_click_type(kind, spec), multiple=many, **attrs)


def _click_type(kind: Any, spec: Spec) -> click.ParamType[Any]:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind is int:
        return click.IntRange(spec.min, spec.max)  # type: ignore[arg-type]
    if kind is float:
        return _FiniteRange(spec.min, spec.max)
    return click.Path(path_type=Path, readable=False) if kind is Path else click.STRING


class _FiniteRange(click.FloatRange):
    """A number in a range, not NaN or infinite: every comparison with NaN is false, the check of the range as well."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def allowed(kind: click.ParamType[Any]) -> str:
    """Return the values of a type in words, for messages."""
    if isinstance(kind, click.Choice):
        *others, last = kind.choices
        return f"{', '.join(others)} or {last}" if others else last
    if not isinstance(kind, click.IntRange | click.FloatRange):
        switch, text = isinstance(kind, click.types.BoolParamType), isinstance(kind, click.types.StringParamType)
        return "true or false" if switch else "a text" if text else "a path"
    what, low, high = "an integer" if isinstance(kind, click.IntRange) else "a number", kind.min, kind.max
    if low is None:
        return what
    return f"{what} from {low:g} to {high:g}" if high is not None else f"{what} of at least {low:g}"
