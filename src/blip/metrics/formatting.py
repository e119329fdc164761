"""Numbers of metrics as text: four significant digits; values that are zero but for the scorers' guards are 0."""

from __future__ import annotations

_ZERO = 1e-4  # BLEU-4 without a common 4-gram is up to this by the reference scorer's guard against 0/0


def format_number(value: float, *, sign: bool = False) -> str:
    return f"{0.0 if abs(value) <= _ZERO else value:{'+' if sign else ''}.4g}"
