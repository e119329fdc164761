"""Stored captions as files beside the photos, and back: what was written is remembered with its hash.

Only a file that this index wrote, and that nobody has changed since, is ever replaced or removed.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blip.apps.search.database import transaction
from blip.apps.search.schema import STILL
from blip.apps.search.walk import below, shown
from blip.io import atomic
from blip.io.inputs import Input
from blip.io.sidecars import Sidecars, xmp
from blip_lite.errors import EnvironmentProblem, UsageError

EXTENSIONS = (".txt", ".xmp")


@dataclass
class Written:
    """What happened to sidecars. `kept`: (file, why it was left as it is)."""

    done: int = 0
    same: int = 0
    kept: list[tuple[str, str]] = field(default_factory=list)


def write(db: sqlite3.Connection, folder: Path, extension: str, under: bytes | None) -> Written:
    """Writes every stored caption beside its photo. Files of others are left as they are."""
    if extension not in EXTENSIONS:
        raise UsageError(f"--write-captions {extension}; must be {' or '.join(EXTENSIONS)}")
    low, high = (b"", b"\xff") if under is None else below(under)
    rows = db.execute(
        "SELECT f.path, p.caption FROM files f JOIN pictures p ON p.hash = f.hash AND p.at = ?"
        " WHERE p.caption IS NOT NULL AND f.error IS NULL AND f.path >= ? AND f.path < ? ORDER BY f.path",
        (STILL, low, high),
    ).fetchall()
    if not rows:
        raise UsageError("no captions to write; make them first: blip index --captions")
    beside, report = Sidecars(extension=extension), Written()
    for image, caption in rows:
        if os.path.exists(image):
            path = beside.path(Input(key=os.fsdecode(image), source=Path(os.fsdecode(image))))
            _write_one(db, folder, path, image, _content(caption, extension), report)
    return report


def remove(db: sqlite3.Connection, folder: Path, under: bytes | None) -> Written:
    """Removes what `write` has written and nobody has changed."""
    low, high = (b"", b"\xff") if under is None else below(under)
    rows = db.execute(
        "SELECT path, hash FROM written WHERE path >= ? AND path < ? ORDER BY path", (low, high)
    ).fetchall()
    report = Written()
    for path, digest in rows:
        here = _digest(path)
        if here is not None and here != digest:
            report.kept.append((shown(path), "was changed since"))
            continue
        if here is not None:
            with atomic.writing(os.fsdecode(path)):
                os.unlink(path)
            report.done += 1
        _forget(db, folder, path)
    return report


def _write_one(db: sqlite3.Connection, folder: Path, path: Path, image: bytes, data: bytes, report: Written) -> None:
    name, digest = os.fsencode(path), hashlib.sha256(data).digest()
    row = db.execute("SELECT image, hash FROM written WHERE path = ?", (name,)).fetchone()
    here = _digest(name)
    if here is not None and row is None:
        report.kept.append((shown(name), "is not ours"))
    elif here is not None and row[0] != image:
        report.kept.append((shown(name), f"is that of {shown(row[0])}"))
    elif here is not None and here != row[1]:
        report.kept.append((shown(name), "was changed since"))
    elif here == digest:
        report.same += 1
    else:
        try:
            if here is not None:  # so that at no time there is a file of ours whose hash is not known
                with atomic.writing(path), suppress(FileNotFoundError):
                    os.unlink(name)
        except EnvironmentProblem as error:
            report.kept.append((shown(name), _reason(error)))
            return
        with transaction(db, folder):
            db.execute("INSERT OR REPLACE INTO written VALUES (?, ?, ?)", (name, image, digest))
        try:
            atomic.write_bytes(path, data)
        except EnvironmentProblem as error:
            if "no space" in str(error):
                raise
            _forget(db, folder, name)
            report.kept.append((shown(name), _reason(error)))
            return
        report.done += 1


def _reason(error: EnvironmentProblem) -> str:
    return str(error).rpartition(": ")[2]


def _content(caption: str, extension: str) -> bytes:
    return xmp(caption) if extension == ".xmp" else f"{caption}\n".encode()


def _digest(path: bytes) -> bytes | None:
    """Of the file there; something else in its place counts as another file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def _forget(db: sqlite3.Connection, folder: Path, path: bytes) -> None:
    with transaction(db, folder):
        db.execute("DELETE FROM written WHERE path = ?", (path,))
