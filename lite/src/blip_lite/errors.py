"""Every failure that this package raises on purpose.

BlipError
├── ConfigError (ValueError)          a config field, flag or file that cannot be used
│   └── UnknownKey                    no such field; near names are suggested
├── UsageError (ValueError)           no inputs, an output that exists, flags that exclude each other
├── CheckpointError (RuntimeError)    weights that cannot be found, read or placed
│   ├── UnknownModel                  no such name; near names are suggested
│   ├── CheckpointMismatch            missing or unexpected keys, wrong shapes
│   ├── ChecksumMismatch              the file is not the one recorded
│   ├── MissingPart                   the model lacks the head that the call needs
│   └── OfflineError                  a download is needed but not allowed
├── UnreadableImage (ValueError)      one input file; batches go on without it
├── BadRecord (ValueError)            one row of a data source
├── EnvironmentProblem (RuntimeError) device, disk or memory is not what was asked for
│   └── MissingExtra (ImportError)    an optional dependency is not installed
└── TrainingDiverged (ArithmeticError) a loss or gradient is no longer finite

Messages are one line: what failed, where, what is allowed or what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BlipError(Exception):
    """Base of all deliberate failures; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(BlipError, ValueError):
    exit_code = 2


class UnknownKey(ConfigError):
    """`key` is the dotted name that no config has."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        prefix, _, name = key.rpartition(".")
        near = get_close_matches(name, list(known), n=1, cutoff=0.6)
        dotted = f"{prefix}.{near[0]}" if near and prefix else "".join(near)
        super().__init__(f"unknown key '{key}'" + (f"; did you mean '{dotted}'?" if near else ""))
        self.key = key


class UsageError(BlipError, ValueError):
    exit_code = 2


class CheckpointError(BlipError, RuntimeError):
    exit_code = 3


class UnknownModel(CheckpointError):
    pass


class CheckpointMismatch(CheckpointError):
    pass


class ChecksumMismatch(CheckpointError):
    pass


class MissingPart(CheckpointError):
    """A call that the model does not support; `capability` is its name if models of another family support it."""

    def __init__(self, message: str, capability: str | None = None) -> None:
        super().__init__(message)
        self.capability = capability


class OfflineError(CheckpointError):
    pass


class UnreadableImage(BlipError, ValueError):
    """One input that is not a usable image. `key` names the input, `reason` says why."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return type(self), (self.key, self.reason)  # so that it survives a worker process


class BadRecord(BlipError, ValueError):
    """One row of a data source that cannot be used; `where` is file and row, `key` the row's key if it has one."""

    def __init__(self, where: str, reason: str, key: str | None = None) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason, self.key = where, reason, key

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, str, str | None]]:
        return type(self), (self.where, self.reason, self.key)


class EnvironmentProblem(BlipError, RuntimeError):
    exit_code = 4


class MissingExtra(EnvironmentProblem, ImportError):
    pass


class TrainingDiverged(BlipError, ArithmeticError):
    pass


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" when a known name is near, else an empty string."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
