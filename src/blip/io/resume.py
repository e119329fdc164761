"""Resuming a jsonl file of an earlier run: keep its good lines, drop the rest, restore the order."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blip.io.atomic import atomic_path
from blip_lite.errors import UsageError
from blip_lite.text_files import parse_json


class _Line(NamedTuple):
    key: str
    start: int
    end: int


def kept_lines(path: Path, schema: str, per_key: int = 1) -> frozenset[str]:
    """Keep only complete results of `schema` in `path`; return their keys.

    Dropped: an incomplete last line, lines that are not JSON, errors, and all lines of a key with an error or with
    fewer than `per_key` results. A line of another schema raises `UsageError`; the file is then unchanged.
    """
    lines, bad = _scan(path, schema)
    counts = Counter(line.key for line in lines)
    kept = [line for line in lines if line.key not in bad and counts[line.key] >= per_key]
    size = sum(line.end - line.start for line in kept)
    if kept and kept[-1].end == size:
        os.truncate(path, size)  # needs no space on a full disk
    elif size < path.stat().st_size:
        _rewrite(path, kept)
    return frozenset(line.key for line in kept)


def sort_lines(path: Path, order: Sequence[str]) -> None:
    """Sort the records by the order of their keys; within a key their order is kept."""
    rank = {key: i for i, key in enumerate(order)}
    lines, _ = _scan(path, None)
    ordered = sorted(lines, key=lambda line: rank.get(line.key, len(rank)))
    if ordered != lines:
        _rewrite(path, ordered)


def _scan(path: Path, schema: str | None) -> tuple[list[_Line], set[str]]:
    """Return the lines with a key (errors too if `schema` is None), and the keys that have an error."""
    lines: list[_Line] = []
    bad: set[str] = set()
    for start, raw in _lines(path):
        value = _record(raw)
        if value is None:
            continue
        if schema is not None and value.get("schema") != schema:
            raise UsageError(f"{path}: holds {value.get('schema')} records; --resume needs {schema}")
        if schema is not None and "error" in value:
            bad.add(value["key"])
        else:
            lines.append(_Line(value["key"], start, start + len(raw)))
    return lines, bad


def _record(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        value = parse_json(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("key"), str) else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        at = 0
        for raw in file:
            yield at, raw
            at += len(raw)


def _rewrite(path: Path, lines: Iterable[_Line]) -> None:
    with atomic_path(path) as temporary, open(path, "rb") as source, open(temporary, "wb") as target:
        for line in lines:
            source.seek(line.start)
            target.write(source.read(line.end - line.start))
