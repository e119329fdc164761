"""Exceptions that the packages raise deliberately.

BlipError
├── ConfigError (ValueError)          invalid config field, flag or file
│   └── UnknownKey                    unknown field; a similar name is suggested
├── UsageError (ValueError)           no inputs, existing output, conflicting flags
├── CheckpointError (RuntimeError)    weights that cannot be found, read or assigned
│   ├── UnknownModel                  unknown name; a similar name is suggested
│   ├── CheckpointMismatch            missing or unexpected keys, wrong shapes
│   ├── ChecksumMismatch              the file differs from the recorded one
│   ├── MissingPart                   the model does not support the call
│   └── OfflineError                  a download is needed but not allowed
├── UnreadableImage (ValueError)      one unusable input; batches continue without it
├── BadRecord (ValueError)            one unusable row of a data source
├── EnvironmentProblem (RuntimeError) device, disk or memory not available
│   └── MissingExtra (ImportError)    an optional dependency is not installed
└── TrainingDiverged (ArithmeticError) a loss or gradient is not finite

Messages are one line: what failed, where, and what is allowed or what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BlipError(Exception):
    """Base class; `exit_code` is the exit code of the command line."""

    exit_code = 1


class ConfigError(BlipError, ValueError):
    exit_code = 2


class UnknownKey(ConfigError):
    """`key` is the unknown dotted name."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        prefix, dot, name = key.rpartition(".")
        known = tuple(known)
        super().__init__(f"unknown key '{key}'" + did_you_mean(name, known, prefix + dot))
        self.key, self.known = key, known

    def __reduce__(self) -> tuple[type[UnknownKey], tuple[str, tuple[str, ...]]]:
        return type(self), (self.key, self.known)


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

    def __reduce__(self) -> tuple[type[MissingPart], tuple[str, str | None]]:
        return type(self), (str(self), self.capability)


class OfflineError(CheckpointError):
    pass


class UnreadableImage(BlipError, ValueError):
    """One input that is not a usable image: its key and the reason."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return type(self), (self.key, self.reason)  # for pickling between processes


class BadRecord(BlipError, ValueError):
    """One unusable row of a data source. where: file and row; key: the row's key, if it has one."""

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


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean 'x'?" if a known name is similar, else an empty string. prefix: shown before the name."""
    similar = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{prefix}{similar[0]}'?" if similar else ""
