"""Standard streams of a command: closed or full ones end it with one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from blip_lite.errors import BlipError
from blip_lite.terminal import printable

INTERRUPTED, TERMINATED, BROKEN_PIPE, ENVIRONMENT = 130, 143, 141, 4  # exit codes; 128 + signal
STOPPED = {"interrupted": INTERRUPTED, "terminated": TERMINATED}


class Terminated(BaseException):
    """SIGTERM arrived."""


def run_command(program: str, command: Callable[[], int], *, debug: bool = False) -> int:
    """Call a command and return its exit code; deliberate errors, Ctrl-C and failures of the system are one line.

    `KeyboardInterrupt` and `Terminated` may have a text that is added, such as how to continue. `debug` adds
    tracebacks.
    """
    with _standard_streams():
        try:
            code = command()
            sys.stdout.flush()
            for reason, stopped in STOPPED.items():
                if code == stopped:
                    report(program, reason)
            return code
        except (KeyboardInterrupt, Terminated) as stop:
            reason = "terminated" if isinstance(stop, Terminated) else "interrupted"
            report(program, "; ".join((reason, *stop.args)))
            return STOPPED[reason]
        except BrokenPipeError:
            report(program, "standard output was closed before all results were written", debug=debug)
            return BROKEN_PIPE
        except BlipError as error:
            report(program, str(error), debug=debug)
            return error.exit_code
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            report(program, where + (error.strerror or str(error)), debug=debug)
            return ENVIRONMENT
        finally:
            _discard_output()


def report(program: str, message: str, *, debug: bool = False) -> None:
    """Print an error in one line, after the traceback of the current exception with `debug`."""
    if debug:
        traceback.print_exc()
    print(f"{program}: error: {printable(' '.join(message.split()))}", file=sys.stderr)


def _discard_output() -> None:
    """Drop what cannot be written to standard output, so that the interpreter does not try again."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        with contextlib.suppress(OSError):
            sys.stdout.flush()


@contextlib.contextmanager
def _standard_streams() -> Iterator[None]:
    """Open closed standard streams, so that no file takes their numbers; ignore failures of standard error."""
    for number, (name, flags) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        if getattr(sys, name) is None:
            descriptor = _reopen(number, flags)  # standard output is opened for reading: writing to it is an error
            stream = os.fdopen(descriptor, "r" if number == 0 else "w", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
    output, errors = cast(TextIO, _Named(sys.stdout)), cast(TextIO, _Lenient(sys.stderr))
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        yield


def _reopen(number: int, flags: int) -> int:
    """Open the null device under the number of a closed stream, or under another if a file has it already."""
    descriptor = os.open(os.devnull, flags)  # takes the lowest free number
    try:
        os.fstat(number)
    except OSError:
        os.dup2(descriptor, number)
        os.close(descriptor)
        return number
    return descriptor


class _Named:
    """A stream whose errors say that they are those of standard output."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._failures():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._failures():
            self._stream.flush()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = "standard output"
            raise


class _Lenient(_Named):
    """A stream whose failures are ignored: there is no other place to report them."""

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        with contextlib.suppress(OSError, ValueError):
            yield
