"""What all verbs share: finding the verb, error lines, exit codes, interruptions."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.main import get_command

from blip.cli import settings
from blip_lite.errors import BlipError, MissingPart, UsageError, did_you_mean


class Terminated(BaseException):
    """SIGTERM arrived."""


def run(argv: list[str], verbs: Mapping[str, str]) -> int:
    """Runs one verb and turns what happens into an exit code; errors become one line on standard error."""
    debug = "--debug" in argv
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            return _dispatch(argv, verbs)
    except MissingPart as error:
        return _fail(f"{error}{_models_with(error.capability)}", error.exit_code, debug)
    except BlipError as error:
        return _fail(str(error), error.exit_code, debug)
    except typer.TyperException as error:
        return _fail(_wrong_usage(error, argv), 2, debug)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130, False)
    except Terminated:
        return _fail("terminated", 143, False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            advice = "caption, ask, match and embed need none with -m FOLDER, which 'blip export' has written"
            return _fail(f"torch is not installed: pip install torch; {advice}", 4, debug)
        traceback.print_exc()
        return _fail("this is a bug in blip, please report it with the lines above", 70, False)


def _dispatch(argv: list[str], verbs: Mapping[str, str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(verbs), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"blip {_version('blip-vlm')} (torch {_version('torch')}, python {sys.version.split()[0]})")
        return 0
    verb, *rest = argv
    if verb not in verbs:
        raise UsageError(f"unknown verb '{verb}'{did_you_mean(verb, verbs)}; 'blip --help' lists all")
    command: Any = get_command(verb_app(verb))
    names = [parameter.name for parameter in command.params]
    defaults: dict[str, object] = {}
    show = False
    if "inputs" in names:
        given = settings.take(rest)
        rest, show, defaults = given.rest, given.show, given.values(names)
    with command.make_context(f"blip {verb}", rest, default_map=defaults) as context:
        if show:
            print(settings.to_yaml(context.params), end="")
            return 0
        result = command.invoke(context)  # not main(), which would exit for a closed pipe
    return result if isinstance(result, int) else 0


def verb_app(verb: str) -> typer.Typer:
    """The typer application of one verb; its module is imported here, not before."""
    module = import_module(f"blip.cli.{verb}")
    if hasattr(module, "app"):
        app: typer.Typer = module.app
        return app
    app = typer.Typer(add_completion=False)
    app.command()(getattr(module, verb))
    return app


def _overview(verbs: Mapping[str, str]) -> str:
    lines = [f"  {name:<12}{text}" for name, text in verbs.items()]
    return "\n".join(["usage: blip VERB ...   ('blip VERB --help' for each)", "", *lines])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _wrong_usage(error: typer.TyperException, argv: Sequence[str]) -> str:
    """What typer says of a command line, in the form of this program's errors."""
    option = getattr(error, "option_name", None)
    parameter: Any = getattr(error, "param", None)
    if option:
        return f"unknown flag '{option}'{did_you_mean(option, getattr(error, 'possibilities', None) or ())}"
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    name = next((o for o in reversed(getattr(parameter, "opts", ())) if o.startswith("-")), None)
    if name is None or kind not in _KINDS:
        return str(getattr(error, "format_message", error.__str__)())
    given = next((argv[i + 1] for i, arg in enumerate(argv[:-1]) if arg in parameter.opts), None)
    given = given or next((arg.partition("=")[2] for arg in argv if arg.startswith(f"{name}=")), "")
    low, high = parameter.min, parameter.max
    allowed = (
        f" from {low:g} to {high:g}" if None not in (low, high) else f" of at least {low:g}" if low is not None else ""
    )
    return f"{name} {given}; must be {_KINDS[kind]}{allowed}"


_KINDS = {int: "an integer", float: "a number"}


def _models_with(capability: str | None) -> str:
    """ "; use NAME, NAME or NAME": models of the catalogue that support a call; "" without a call."""
    if capability is None:
        return ""
    from blip.checkpoint.catalogue import models_with

    *others, last = models_with(capability)[:3]
    return f"; use {', '.join(others)} or {last}" if others else f"; use {last}"


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"blip: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _warn(message: Warning | str, *_: object) -> None:
    print(f"blip: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
