"""Text from outside, such as file names, on a terminal."""

from __future__ import annotations

import re

# C0 and C1 controls (escape sequences begin with them), line separators, direction overrides, lone surrogates
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text in one line without characters that control a terminal: they become for example `\\x1b`."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
