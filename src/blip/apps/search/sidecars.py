"""Sidecars of an index: stored captions as files beside the photos, each recorded with its hash.

A file is replaced or removed only if this index wrote it and it has not changed since.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from blip.apps.search.database import STILL, Database
from blip.apps.search.scan import display_path, prefix_range
from blip.io import atomic
from blip.io.disk import writing
from blip.io.samples import ImageRef, Sample
from blip.io.sidecars import Sidecars, xmp
from blip_lite.errors import EnvironmentProblem, UsageError

EXTENSIONS = (".txt", ".xmp")


@dataclass
class SidecarReport:
    """Number of sidecars written or removed, and unchanged. `kept`: (file, why it was not touched)."""

    done: int = 0
    unchanged: int = 0
    kept: list[tuple[str, str]] = field(default_factory=list)


def write(db: Database, extension: str, under: bytes | None) -> SidecarReport:
    """Write every stored caption beside its photo. Files that this index did not write are kept."""
    if extension not in EXTENSIONS:
        raise UsageError(f"--write-captions {extension}; must be {' or '.join(EXTENSIONS)}")
    rows = db.execute(
        "SELECT f.path, p.caption FROM files f JOIN pictures p ON p.hash = f.hash AND p.at = ?"
        " WHERE p.caption IS NOT NULL AND f.error IS NULL AND f.path >= ? AND f.path < ? ORDER BY f.path",
        (STILL, *prefix_range(under)),
    ).fetchall()
    if not rows:
        raise UsageError("no captions to write; create them with 'blip index --captions'")
    sidecars, report = Sidecars(extension=extension), SidecarReport()
    for image, caption in rows:
        if os.path.exists(image):
            path = sidecars.path(Sample(key=os.fsdecode(image), images=(ImageRef(Path(os.fsdecode(image))),)))
            content = xmp(caption) if extension == ".xmp" else f"{caption}\n".encode()
            _write_sidecar(db, path, image, content, report)
    return report


def remove(db: Database, under: bytes | None) -> SidecarReport:
    """Remove the sidecars that `write` wrote and that have not changed since."""
    query = "SELECT path, hash FROM sidecars WHERE path >= ? AND path < ? ORDER BY path"
    report = SidecarReport()
    for path, digest in db.execute(query, prefix_range(under)).fetchall():
        current = _hash_file(path)
        if current is not None and current != digest:
            report.kept.append((display_path(path), "changed since"))
            continue
        if current is not None:
            with writing(os.fsdecode(path)):
                os.unlink(path)
            report.done += 1
        _forget(db, path)
    return report


def _write_sidecar(db: Database, path: Path, image: bytes, content: bytes, report: SidecarReport) -> None:
    name, digest = os.fsencode(path), hashlib.sha256(content).digest()
    row = db.execute("SELECT image, hash FROM sidecars WHERE path = ?", (name,)).fetchone()
    current = _hash_file(name)
    if current is not None and row is None:
        report.kept.append((display_path(name), "not written by this index"))
    elif current is not None and row[0] != image:
        report.kept.append((display_path(name), f"belongs to {display_path(row[0])}"))
    elif current is not None and current != row[1]:
        report.kept.append((display_path(name), "changed since"))
    elif current == digest:
        report.unchanged += 1
    else:
        try:
            _replace(db, path, image, content, digest, exists=current is not None)
            report.done += 1
        except EnvironmentProblem as error:
            if "no space" in str(error):
                raise
            report.kept.append((display_path(name), str(error).rpartition(": ")[2]))


def _replace(db: Database, path: Path, image: bytes, content: bytes, digest: bytes, *, exists: bool) -> None:
    """Write a sidecar and its record so that a file of ours never exists without its recorded hash."""
    name = os.fsencode(path)
    if exists:
        with writing(path), suppress(FileNotFoundError):
            os.unlink(name)
    with db.transaction():
        db.execute("INSERT OR REPLACE INTO sidecars VALUES (?, ?, ?)", (name, image, digest))
    try:
        atomic.write_bytes(path, content)
    except EnvironmentProblem as error:
        if "no space" not in str(error):
            _forget(db, name)
        raise


def _hash_file(path: bytes) -> bytes | None:
    """SHA-256 of a file; None if it does not exist, b"" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def _forget(db: Database, path: bytes) -> None:
    with db.transaction():
        db.execute("DELETE FROM sidecars WHERE path = ?", (path,))
