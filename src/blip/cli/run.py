"""The program: verbs imported when they are called, error lines, exit codes, interruptions."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn

import click
from click.shell_completion import CompletionItem, shell_complete

from blip.cli.commands import GENERAL, HELP, Command, Group, Option
from blip.io.disk import write_failure
from blip_lite.errors import BlipError, MissingPart, did_you_mean
from blip_lite.streams import ENVIRONMENT, Terminated, report, run_command
from blip_lite.terminal import printable

NAME = "blip"
COMPLETION = "_BLIP_COMPLETE"  # environment variable by which the completion script calls this program


class Program(Group):
    """The `blip` command; imports the module of a verb when the verb is called."""

    def __init__(self, verbs: Mapping[str, str]) -> None:
        version_flag = Option(
            ["--version"],
            group=GENERAL,
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Show the versions of blip, torch and Python.",
            callback=_print_versions,
        )
        super().__init__(NAME, params=[version_flag], context_settings=HELP)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return verb_command(name) if name in self.verbs else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs ('blip VERB --help' describes each)"):
            formatter.write_dl(list(self.verbs.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the verbs, without importing them, and the flags."""
        verbs = [CompletionItem(name, help=text) for name, text in self.verbs.items() if name.startswith(incomplete)]
        return [*verbs, *Command.shell_complete(self, ctx, incomplete)]


def verb_command(verb: str) -> click.Command:
    """Return the command of a verb; imports its module."""
    command: click.Command = getattr(import_module(f"blip.cli.{verb}"), verb)
    return command


def run(argv: Sequence[str], verbs: Mapping[str, str]) -> int:
    """Run one verb and return the exit code; errors become one line on standard error."""
    debug, program = "--debug" in argv, Program(verbs)
    if COMPLETION in os.environ:
        return shell_complete(program, {}, NAME, COMPLETION, os.environ[COMPLETION])
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _terminate)
    return run_command(NAME, lambda: _invoke(program, argv, debug), debug=debug)


def _invoke(program: Program, argv: Sequence[str], debug: bool) -> int:
    """Run one verb; handle click's exceptions, and those that no code raises deliberately."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            with program.make_context(NAME, list(argv)) as context:
                # not main(), which would exit with 1 for a closed pipe
                return int(program.invoke(context) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        return _fail(_usage_message(error), 2, debug)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except MissingPart as error:
        return _fail(f"{error}{_models_with(error.capability)}", error.exit_code, debug)
    except (BlipError, OSError):
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            advice = "without it, bundled models and folders written by 'blip export' caption, answer, match and embed"
            return _fail(f"torch is not installed: pip install torch; {advice}", ENVIRONMENT, debug)
        if reason := write_failure(error):
            return _fail(reason, ENVIRONMENT, debug)
        traceback.print_exc()
        return _fail("this is a bug in blip, please report it with the lines above", 70, False)


def _print_versions(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        print(f"blip {_version('blip-vlm')} (torch {_version('torch')}, python {sys.version.split()[0]})")
        ctx.exit()


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _usage_message(error: click.UsageError) -> str:
    """Return click's message in the form of this program's errors."""
    if isinstance(error, click.NoSuchOption):
        return f"unknown flag '{error.option_name}'{did_you_mean(error.option_name, error.possibilities or ())}"
    if isinstance(error, click.NoSuchCommand) and error.ctx is not None and isinstance(error.ctx.command, click.Group):
        similar = did_you_mean(error.command_name, error.ctx.command.list_commands(error.ctx))
        return f"unknown verb '{error.command_name}'{similar}; '{error.ctx.command_path} --help' lists all"
    return error.format_message()


def _models_with(capability: str | None) -> str:
    """ "; use NAME, NAME or NAME": models of the catalogue that support a call; "" without a call."""
    if capability is None:
        return ""
    from blip.checkpoint.catalogue import models_with

    *others, last = models_with(capability)[:3]
    return f"; use {', '.join(others)} or {last}" if others else f"; use {last}"


def _fail(message: str, code: int, debug: bool) -> int:
    report(NAME, message, debug=debug)
    return code


def _warn(message: Warning | str, *_: object) -> None:
    print(f"{NAME}: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
