"""Text and JSON that users and other programs wrote: every text file and stream is read by these functions.

Text is UTF-8; a byte order mark, which editors on Windows write, selects UTF-8, UTF-16 or UTF-32 and is not part of the
text.
"""

from __future__ import annotations

import codecs
import io
import json
import os
from typing import Any, TextIO

_MARKS = (  # UTF-32 first: its little-endian mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text that starts with these bytes; decoding with it removes a byte order mark."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8-sig")


def decode_text(data: bytes) -> str:
    """Decode a text, without its byte order mark. Raises `UnicodeDecodeError`."""
    return data.decode(encoding_of(data[:4]))


def open_text(path: str | os.PathLike[str], *, newline: str | None = None, errors: str | None = None) -> TextIO:
    """Open a text file for reading, after its byte order mark. Raises `OSError`; reading, `UnicodeDecodeError`."""
    file = open(path, "rb")  # noqa: SIM115 (closed with the text)
    return io.TextIOWrapper(file, encoding_of(file.peek(4)[:4]), errors, newline)


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file; line ends become `\\n`. Raises `OSError` and `UnicodeDecodeError`."""
    with open_text(path) as file:
        return file.read()


def parse_json(data: str | bytes, *, unique: bool = False) -> Any:  # Any: JSON
    """Return the value of a JSON text. Raises `ValueError`, also for text that is nested too deeply.

    unique: a name that occurs twice in an object is an error; otherwise its last value counts.
    """
    try:
        text = decode_text(data) if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_unique if unique else None)  # noqa: TID251
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"'{name[:40]}' occurs twice in an object")
    return values


def load_json(path: str | os.PathLike[str]) -> Any:  # Any: JSON
    """Return the value of a JSON file. Raises `OSError` and `ValueError`."""
    return parse_json(read_text(path))


def load_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:  # Any: JSON
    """Return the JSON object in a file. Raises `OSError`, and `ValueError` for invalid JSON and any other value."""
    try:
        value = load_json(path)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {type(value).__name__}")
    return value
