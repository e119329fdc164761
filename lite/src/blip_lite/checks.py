"""Checks of arguments: each raises a `BlipError` that names the argument, its value and what is allowed."""

from __future__ import annotations

import math
import os

import numpy as np

from blip_lite.errors import ConfigError, UsageError


def check_int(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise ConfigError unless `value` is an integer from `least` to `most`; a bool is not."""
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    ok = is_int and value >= least and (most is None or value <= most)  # type: ignore[operator]
    check(name, value, ok, f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}")


def check_float(name: str, value: object, above: float | None = None) -> None:
    """Raise ConfigError unless `value` is a finite number, above `above` if given."""
    ok = is_number(value) and (above is None or value > above)  # type: ignore[operator]
    check(name, value, ok, "a finite number" if above is None else f"a finite number above {above:g}")


def is_number(value: object) -> bool:
    """Whether `value` is a finite number, of Python or numpy; a bool is not."""
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_real and math.isfinite(value)  # type: ignore[arg-type]


def check(name: str, value: object, ok: bool, allowed: str) -> None:
    """Raise ConfigError unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} {value!r:.40}: must be {allowed}")


def check_bool(name: str, value: object) -> None:
    """Raise ConfigError for anything but True and False, such as the texts "yes" and "no"."""
    check(name, value, isinstance(value, bool | np.bool_), "True or False")


def check_text(name: str, text: object) -> None:
    """Raise UsageError for anything but a `str`."""
    if not isinstance(text, str):
        raise UsageError(f"{name} {text!r:.40}; must be one text (str)")


def check_path(name: str, path: object) -> None:
    """Raise UsageError for anything but a `str` or path of at least one character."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in str(os.fspath(path)):
        raise UsageError(f"{name} {path!r:.40}; must be a name or path (str or Path)")
